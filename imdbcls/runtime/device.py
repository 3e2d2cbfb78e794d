"""The hardware a run computes on: device, precision, threads, random state, peak memory."""

import hashlib
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from imdbcls.errors import UserError
from imdbcls.runtime import limits

_all_threads: int | None = None  # of the processes that share them, where this one has only a share


@dataclass(frozen=True)
class Hardware:
    """Where a run computes and in which precision.

    `bf16` is autocast: weights, optimizer state and losses stay float32, matrix products and attention run in bfloat16.
    """

    device: torch.device
    precision: str  # fp32 | bf16

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def describe(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        if self.device.type == "cpu":
            threads = torch.get_num_threads()
            return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {self.precision}"
        return f"{self.device.type}, {self.precision}"


def choose_hardware(device: str, precision: str, deterministic: bool = False) -> Hardware:
    """Resolve `auto` and refuse what this machine does not have (UserError).

    `deterministic` has CUDA use only kernels that give the same bits each time; on the CPU they always do.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    chosen = available[0] if device == "auto" else device
    if chosen not in available:
        raise UserError(
            f"device={device} was asked for, and PyTorch finds only: {', '.join(available)}; use device=auto."
        )
    if precision == "auto":
        precision = "bf16" if computes_bf16(chosen) else "fp32"
    if chosen == "cuda":
        set_float32_products(precision)
        if deterministic:
            require_determinism()
    return Hardware(torch.device(chosen), precision)


def start_threads() -> None:
    """Start PyTorch's compute threads, or raise UserError if this process may not start that many.

    OpenMP ends the process at once when it cannot start a thread, without an exception. So the threads are tried first
    (twice as many: PyTorch and the compiled kernels may each have their own) and started before memory is taken.
    """
    count = torch.get_num_threads()
    limits.require_threads(2 * count)
    torch.zeros(count << 16).add_(1)  # large enough for every thread to get a part


def share_threads(jobs: int) -> None:
    """From now on, compute with this process's share of the CPU's threads: it runs beside other jobs."""
    global _all_threads
    _all_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, _all_threads // jobs))


@contextmanager
def all_threads() -> Iterator[None]:
    """Within, compute with every job's share: for what the others wait for, as a rule.

    Jobs that do not wait go on with theirs, and all are then slower for that time.
    """
    share = torch.get_num_threads()
    torch.set_num_threads(share if _all_threads is None else _all_threads)
    try:
        yield
    finally:
        torch.set_num_threads(share)


def set_float32_products(precision: str) -> None:
    """Have CUDA compute float32 products in float32 where that precision was asked for.

    PyTorch's own default would be TF32, with 10 bits of mantissa, for an LSTM even then. Under bf16 an LSTM, which
    stays out of autocast (`heads/lstm.py`), may have it: TF32 still keeps more bits than bfloat16.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = precision == "bf16"


def require_determinism() -> None:
    """Have CUDA use only kernels that give the same bits each time, and raise where an operation has none.

    Flash and memory-efficient attention then take the deterministic form of their backward pass; cuDNN's attention has
    none and is left out.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def computes_bf16(device: str) -> bool:
    """Whether the hardware has bfloat16 matrix units; emulation does not count."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def seed_everything_at(seed: int, step: int) -> None:
    """Set PyTorch's random state from the run's seed and the step alone.

    A step's dropout then depends on nothing that happened before it: a resumed run draws what an undisturbed one would
    have, and a step can be repeated.
    """
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    number = int.from_bytes(digest[:8], "little", signed=True)
    # As torch.manual_seed does, which also takes down the whole call stack for each kind of device not in use.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def reset_peak_memory(device: torch.device) -> None:
    """From now on, count the most memory anew, where it can be: a process's resident memory has one peak for ever."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held, in MB (10^6 bytes): the GPU's where one is used, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
