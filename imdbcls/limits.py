"""The machine's limits, told apart from mistakes: no memory left, no room on the disk."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from imdbcls.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors and pyarrow tell the number in their text alone.
_NO_ROOM_TEXT = re.compile(rf"(os error |\[?errno ?)({'|'.join(map(str, _NO_ROOM))})\b", re.IGNORECASE)
_NO_MEMORY_TEXT = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA raises torch.OutOfMemoryError, the CPU a RuntimeError known by its text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY_TEXT)


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of room: a full disk, a quota, a limit on a file's size."""
    return getattr(error, "errno", None) in _NO_ROOM or bool(_NO_ROOM_TEXT.search(str(error)))


@contextmanager
def explained() -> Iterator[None]:
    """Raise what the machine is to blame for as UserError."""
    try:
        yield
    except OSError as error:
        sentence = explain(error)
        if sentence is None:
            raise
        raise sentence from error


def explain(error: BaseException) -> UserError | None:
    """The sentence for an error that a limit of the machine caused, None for any other."""
    if isinstance(error, UserError):
        return None
    detail = " ".join(str(error).split())[:160]
    if is_disk_full(error):
        return UserError(
            f"There is no room left to write ({detail}). What was saved before is whole: free some space, and the same "
            "command continues."
        )
    if is_out_of_memory(error):
        return UserError(
            f"There is not enough memory ({detail}). A smaller trainer.micro_batch_size or max_length needs less; it "
            "is another run."
        )
    return None
