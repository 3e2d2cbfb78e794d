"""Settings of the process that decide how fast PyTorch runs on a CPU: the allocator and the waiting of threads."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

# How often a thread that waits for the others looks before it sleeps (libgomp's default is 300,000 times, some
# milliseconds). Where other programs use the cores too, long looking keeps the awaited thread from running at all.
_SPIN_COUNT = "2000"


def tune_process() -> bool:
    """Have threads wait briefly and freed memory stay in the process. Call it before PyTorch is imported.

    The user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT wins. Returns whether the allocator took its settings.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    return tune_allocator()


def tune_allocator() -> bool:
    """Tell glibc to serve every block from its heap and never to hand the heap back to the kernel.

    By default glibc maps large blocks afresh and trims its heap, and the kernel zeroes each page again at first touch:
    about a third of a training step. Call it before the first large tensor. The process then stays at its peak size,
    which is what `peak_memory_mb` counts anyway.

    Returns whether the settings took: False off Linux or off glibc. Under a preloaded allocator (tcmalloc, jemalloc)
    they take and change nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    process = ctypes.CDLL(None)
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "mallopt"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
    return all([process.mallopt(name, value) == 1 for name, value in settings.items()])
