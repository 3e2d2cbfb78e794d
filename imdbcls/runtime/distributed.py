"""Data-parallel training: the processes that torchrun starts for one run, and what they exchange.

Gradients are averaged by PyTorch's DistributedDataParallel. Everything else that the processes exchange goes through
`Processes`: the loss of a step, a request to stop, evaluated logits, and whether a process has failed.
"""

import contextlib
import datetime
import logging
import os
import re
from collections.abc import Iterator
from inspect import signature
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runtime import console
from imdbcls.runtime.torchrun import VARIABLES, exit_after_main_process

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

# A process may have to wait a long time while another one downloads or encodes documents. If a process ends, its
# connections close. Gloo then fails at once. NCCL may keep waiting until torchrun stops the other processes.
TIMEOUT = datetime.timedelta(days=1)
_LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|gloo|nccl|socket", re.IGNORECASE)


class ProcessLostError(UserError):
    """Another process of the run has failed or was killed."""


class Processes:
    """The processes of one run. This process has the rank `rank`. Only the main process, rank 0, writes results.

    All processes must call the communicating methods in the same order. With one process, these methods do nothing.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def parallel(self, model: "nn.Module") -> Any:
        """Return the model, wrapped so that `backward` averages its gradients over the processes.

        DistributedDataParallel must find unused parameters, because some may get no gradient. For example, the logits
        of a head that reads only the first token do not depend on the key bias of the last layer.
        """
        if self.size == 1:
            return model
        self.wait()  # DistributedDataParallel would wait forever for a process that has failed
        from torch.nn.parallel import DistributedDataParallel

        # Buffers are not synchronized, because no forward pass changes them. PyTorch 2.13 renamed this option.
        new, old = "forward_sync_buffers", "broadcast_buffers"
        sync_buffers = new if new in signature(DistributedDataParallel).parameters else old
        options: dict[str, Any] = {"gradient_as_bucket_view": True, "find_unused_parameters": True, sync_buffers: False}
        return DistributedDataParallel(model, **options)

    def add(self, tensor: "Tensor") -> None:
        """Replace a tensor with its sum over the processes."""
        if self.size > 1:
            from torch import distributed

            distributed.all_reduce(tensor)

    def largest(self, value: int) -> int:
        """Return the largest of the processes' values."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        tensor = torch.tensor([value])
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor)

    @contextlib.contextmanager
    def agreement(self) -> Iterator[None]:
        """Run the block in every process, and continue only if it raises no exception in any of them.

        Otherwise, the failed process with the smallest rank raises its own exception, because several processes often
        fail for the same reason. If the main process has not failed, it raises ProcessLostError. All other processes
        exit.
        """
        try:
            yield
        except ProcessLostError:
            raise
        except Exception:
            if self._first_failed(has_failed=True) < self.rank:
                exit_after_main_process()
            raise
        self.wait()

    def wait(self) -> None:
        """Wait for all processes.

        If the block of an `agreement` fails in any process, raise ProcessLostError in the main process, and exit in all
        other processes.
        """
        first = self._first_failed(has_failed=False)
        if first < self.size and self.is_main:
            raise ProcessLostError(f"Process {first} of {self.size} has failed; its error is shown above.")
        if first < self.size:
            exit_after_main_process()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, and then in all other processes."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def _first_failed(self, *, has_failed: bool) -> int:
        """Return the smallest rank of a failed process; `size` if none has failed."""
        return self.size - self.largest(self.size - self.rank if has_failed else 0)


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Connect the processes of a run. `device` is the config's device: auto, cpu, cuda or mps.

    Raise UserError if the processes use CUDA and outnumber this machine's GPUs, or if variables of the launcher are
    missing.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but these variables are not set: {', '.join(missing)}. Start the "
            "processes of one run with torchrun --nproc_per_node N -m imdbcls.train ..."
        )
    import torch
    from torch import distributed

    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_cuda:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started {local_rank + 1} or more processes on a machine with {torch.cuda.device_count()} "
                "GPUs. Start at most one process per GPU (--nproc_per_node)."
            )
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=TIMEOUT)
    if rank != 0:
        logging.getLogger(console.PACKAGE).setLevel(logging.ERROR)
    yield Processes(rank, size, local_rank)
    distributed.destroy_process_group()  # not after an error: other processes may already have ended


@contextlib.contextmanager
def explained(processes: Processes) -> Iterator[None]:
    """If a connection between processes fails, raise ProcessLostError in the main process, and exit in the others.

    The error contains the last line of PyTorch's error. NCCL prints the reason, if it knows one, in this line, such as
    a full /dev/shm.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        if not processes.is_main:
            exit_after_main_process()
        reason = str(error).strip().splitlines()[-1].strip()
        raise ProcessLostError(
            f"Another process of this run has ended or cannot be reached ({reason}). If a process has ended, torchrun "
            "shows which one. The same command continues the run from its last checkpoint."
        ) from error


def is_lost(error: RuntimeError) -> bool:
    """Return whether an error means that the connection to another process is lost."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or bool(_LOST.search(str(error)))
