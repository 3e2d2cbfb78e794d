"""The hardware that a run uses: device, precision, threads, random state and peak memory."""

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

_all_threads: int | None = None  # threads of all parallel jobs together; None if this process runs alone


@dataclass(frozen=True)
class Hardware:
    """The device and the precision of a run.

    `bf16` means autocast: matrix products and attention run in bfloat16; weights, optimizer state and losses stay
    float32. With `deterministic`, CUDA uses only kernels that give the same bits on every run.
    """

    device: torch.device
    precision: str  # fp32 | bf16
    deterministic: bool = False

    def forward_pass(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass. On CUDA, set PyTorch's flags for this run first.

        The flags belong to the process, and another run in this process may have changed them. They stay set after the
        context, for the backward pass.
        """
        self.set_flags()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def set_flags(self) -> None:
        """On CUDA, set the process's flags for float32 products and determinism. Do nothing on other devices."""
        if self.device.type == "cuda":
            set_float32_products(self.precision)
            set_determinism(self.deterministic)

    def describe(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        if self.device.type == "cpu":
            threads = torch.get_num_threads()
            return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {self.precision}"
        return f"{self.device.type}, {self.precision}"


def choose_hardware(device: str, precision: str, deterministic: bool = False) -> Hardware:
    """Return the hardware to use, with `auto` resolved. Raise UserError if PyTorch does not find the device.

    With `deterministic`, CUDA uses only kernels that give the same bits on every run. CPU kernels are always
    deterministic.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    chosen = available[0] if device == "auto" else device
    if chosen not in available:
        raise UserError(
            f"device={device} is not available: PyTorch finds only {', '.join(available)}. Use device=auto."
        )
    if precision == "auto":
        precision = "bf16" if computes_bf16(chosen) else "fp32"
    hardware = Hardware(torch.device(chosen), precision, deterministic)
    hardware.set_flags()
    return hardware


def visible_gpus() -> list[str]:
    """Return one value of CUDA_VISIBLE_DEVICES for each GPU of this process. Each value selects one GPU.

    This function does not initialize CUDA, because a process with initialized CUDA cannot be forked.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if named is None else named.replace(" ", "").split(",")[:count]


def start_threads() -> None:
    """Start PyTorch's compute threads. Raise UserError if this process cannot start enough threads.

    OpenMP aborts the process, without an exception, if it cannot start a thread. This function therefore first starts
    and stops Python threads as a test. It starts twice as many threads as PyTorch needs, because the compiled kernels
    may have threads of their own. Call this function before memory is allocated.
    """
    count = torch.get_num_threads()
    limits.require_threads(2 * count)
    torch.zeros(count << 16).add_(1)  # large enough to use every thread


def share_threads(jobs: int) -> None:
    """Limit this process to its share of the CPU's threads, because it runs in parallel with other jobs."""
    global _all_threads
    _all_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, _all_threads // jobs))


@contextmanager
def all_threads() -> Iterator[None]:
    """Use the threads of all parallel jobs in this block, for work that the other jobs usually wait for.

    Jobs that do not wait still use their own threads, so all jobs are then slower during the block.
    """
    share = torch.get_num_threads()
    torch.set_num_threads(share if _all_threads is None else _all_threads)
    try:
        yield
    finally:
        torch.set_num_threads(share)


def set_float32_products(precision: str) -> None:
    """Disable TF32 on CUDA for matrix products, and for cuDNN too if the precision is fp32.

    By default, PyTorch lets cuDNN compute a float32 LSTM in TF32, which has a mantissa of 10 bits. Under bf16, the LSTM
    runs in float32 outside autocast (`heads/lstm.py`), and TF32 is allowed: it is still more precise than bfloat16.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = precision == "bf16"


def set_determinism(deterministic: bool) -> None:
    """Make CUDA use only deterministic kernels, or allow all kernels again.

    With `deterministic`, operations without a deterministic kernel raise RuntimeError. Flash and memory-efficient
    attention use the deterministic variant of their backward pass. cuDNN's attention has no such variant and is
    disabled. cuBLAS needs CUBLAS_WORKSPACE_CONFIG, which `process.fix_sums` has set.
    """
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # the first call imports torch._inductor (1 s)
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False  # PyTorch's default
    torch.backends.cuda.enable_cudnn_sdp(not deterministic)


def computes_bf16(device: str) -> bool:
    """Return whether the device computes bfloat16 products in hardware. Return False for emulation and for MPS."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def seed_everything_at(seed: int, step: int, rank: int = 0) -> None:
    """Set PyTorch's random state, as a function of only the run's seed, the step and the rank of the process.

    The dropout of a step then does not depend on earlier steps. So a resumed run draws the same numbers as an
    uninterrupted run, and a step can be repeated.
    """
    text = f"{seed}/{step}" if rank == 0 else f"{seed}/{step}/{rank}"
    digest = hashlib.sha256(text.encode()).digest()
    number = int.from_bytes(digest[:8], "little", signed=True)
    # Equivalent to torch.manual_seed, which is slower: it also records the call stack for each unused device type.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory statistics on CUDA. Do nothing on other devices: there, the peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process in MB (10^6 bytes): allocated GPU memory on CUDA, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
