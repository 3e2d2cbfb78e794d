"""Keep the texts and ids of a large dataset in memory-mapped Arrow files instead of in the memory of the process.

The kernel reads the pages of a mapped file when they are needed, shares them between processes, and drops them when
memory is short.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from imdbcls.errors import UserError
from imdbcls.printable import is_unicode
from imdbcls.runtime.atomic import stale
from imdbcls.runtime.cache import default_cache_dir

if TYPE_CHECKING:  # numpy and pyarrow are imported where they are used, to keep --help fast
    import numpy as np
    import pyarrow
    from numpy.typing import NDArray

# A column of texts with more characters than this is written to a file. IMDB has 33 million characters per split.
MAX_CHARACTERS = 2**26
# A column of ids or clusters with more characters than this is written to a file. In memory, each of these short
# strings needs 50 bytes more than its characters.
MAX_NAME_CHARACTERS = 2**20
BATCH_CHARACTERS = 2**22  # approximate number of characters in a record batch of the file
READ_ROWS = 256  # texts to read at a time when iterating

T = TypeVar("T")


class MappedTexts(Sequence[Any]):
    """A sequence of texts in an Arrow file that is mapped into memory.

    `rows` selects texts of the file; None selects all. `others` maps a row of the file to its value if Arrow cannot
    store the value as a string: None, numbers, and strings that UTF-8 cannot encode.
    """

    def __init__(
        self, column: "pyarrow.ChunkedArray", others: Mapping[int, Any], rows: "NDArray[np.int64] | None" = None
    ) -> None:
        self._column = column
        self._others = others
        self._rows = rows

    def __len__(self) -> int:
        return len(self._column) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        row = range(len(self))[index] if self._rows is None else int(self._rows[index])
        return self._others[row] if row in self._others else self._column[row].as_py()

    def __iter__(self) -> Iterator[Any]:
        if self._rows is not None:
            yield from (self[index] for index in range(len(self)))
            return
        for start in range(0, len(self), READ_ROWS):
            texts = self._column.slice(start, READ_ROWS).to_pylist()
            yield from (self._others.get(row, text) for row, text in enumerate(texts, start=start))

    def arrow(self) -> "pyarrow.ChunkedArray":
        """Return the texts as an Arrow array. Values that Arrow cannot store are null."""
        return self._column if self._rows is None else self._column.take(self._rows)

    def take(self, rows: "Sequence[int] | NDArray[np.int64]") -> "MappedTexts":
        """Return the texts at `rows`, in that order, without copying them."""
        import numpy as np

        chosen = np.asarray(rows, dtype=np.int64)
        return MappedTexts(self._column, self._others, chosen if self._rows is None else self._rows[chosen])


class TextWriter:
    """Collect the values of a column in a list. Move them to a file when they have too many characters together.

    The limit is `MAX_CHARACTERS`, or `MAX_NAME_CHARACTERS` with `has_names`.
    """

    def __init__(self, has_names: bool = False) -> None:
        self._max_characters = MAX_NAME_CHARACTERS if has_names else MAX_CHARACTERS
        self._pending: list[Any] = []
        self._num_characters = 0
        self._num_written = 0
        self._others: dict[int, Any] = {}
        self._path: str | None = None
        self._writer: pyarrow.RecordBatchFileWriter | None = None

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)

    def append(self, value: Any) -> None:
        """Add a value. Raise UserError if the file cannot be written."""
        self._pending.append(value)
        self._num_characters += len(value) if isinstance(value, str) else 0
        if self._num_characters > (self._max_characters if self._writer is None else BATCH_CHARACTERS):
            try:
                self._write()
            except OSError as error:
                raise UserError(
                    f"A column has more than {self._max_characters:,} characters, so it is written to a file in "
                    f"{default_cache_dir() / 'texts'}, but this failed ({error}). Set IMDBCLS_CACHE to another folder."
                ) from error

    def finish(self) -> Sequence[Any]:
        """Return the values: a list, or a memory-mapped sequence.

        The file of a memory-mapped sequence is unlinked. Its disk space becomes free when the sequence is deleted or
        the process ends.
        """
        if self._writer is None:
            return self._pending
        import pyarrow

        assert self._path is not None
        self._write()
        self._writer.close()
        column = pyarrow.ipc.open_file(pyarrow.memory_map(self._path)).read_all().column(0)
        os.unlink(self._path)  # the mapping keeps the content
        self._path = None
        return MappedTexts(column, self._others)

    def __del__(self) -> None:
        if self._path is not None and self._writer is not None:  # `finish` was not called, because of an error
            self._writer.close()
            os.unlink(self._path)

    def _write(self) -> None:
        """Write the pending values as record batches of about `BATCH_CHARACTERS` characters."""
        import pyarrow

        schema = pyarrow.schema([("text", pyarrow.string())])
        if self._writer is None:
            folder = default_cache_dir() / "texts"
            folder.mkdir(parents=True, exist_ok=True)
            for file in stale(folder.glob("*.arrow")):  # left by killed processes
                file.unlink(missing_ok=True)
            descriptor, self._path = tempfile.mkstemp(suffix=".arrow", dir=folder)
            os.close(descriptor)
            self._writer = pyarrow.ipc.new_file(self._path, schema)
        for values in batches_of(self._pending):
            for row, value in enumerate(values, start=self._num_written):
                if not isinstance(value, str) or not is_unicode(value):
                    self._others[row] = value
            texts = [None if row in self._others else value for row, value in enumerate(values, self._num_written)]
            self._writer.write_batch(pyarrow.record_batch([pyarrow.array(texts, pyarrow.string())], schema=schema))
            self._num_written += len(values)
        self._pending, self._num_characters = [], 0


def batches_of(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Divide values into lists with about `BATCH_CHARACTERS` characters each."""
    batch, num_characters = [], 0
    for value in values:
        batch.append(value)
        num_characters += len(value) if isinstance(value, str) else 0
        if num_characters > BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def as_names(names: Iterable[str]) -> Sequence[str]:
    """Return ids or clusters as a list, or as a memory-mapped sequence if they have many characters."""
    writer = TextWriter(has_names=True)
    writer.extend(names)
    return writer.finish()


def take(values: Sequence[T], rows: "Sequence[int] | NDArray[np.int64]") -> Sequence[T]:
    """Return the values at `rows`, in that order. Mapped texts stay in their file."""
    return values.take(rows) if isinstance(values, MappedTexts) else [values[row] for row in rows]
