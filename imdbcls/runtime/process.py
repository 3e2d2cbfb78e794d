"""Settings of the process for PyTorch on a CPU: the allocator, how threads wait, and sums in an order that is fixed."""

import ctypes
import os
import sys

from imdbcls.runtime import limits
from imdbcls.runtime.console import quiet_libraries

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
# How far the heap is reserved in advance, at most: addresses, not memory.
_RESERVED = 16 << 30

# How often a thread that waits for the others looks before it sleeps (libgomp's default is 300,000 times, some
# milliseconds). Where other programs use the cores too, long looking keeps the awaited thread from running at all.
_SPIN_COUNT = "2000"

# Libraries that choose their number of threads by themselves may choose another one under load.
_FIXED_THREADS = {"MKL_DYNAMIC": "FALSE", "OMP_DYNAMIC": "FALSE"}
# MKL splits the long sums of float32 products (3,072 terms, as in RoBERTa-base) among threads: their last bits depend
# on the number of these, but not in this mode. It is fast only on Intel's processors: elsewhere AUTO means SSE2.
_FIXED_SUMS = "AUTO,STRICT"


def prepare_process() -> None:
    """Check the limits of the machine and set what must be set before PyTorch is imported."""
    limits.require_address_space()
    quiet_libraries()
    tune_process()


def tune_process() -> None:
    """Make threads wait briefly, fix the order of sums and keep freed memory in the process.

    Call it before PyTorch is imported. Variables that the user has set are not changed.
    """
    fix_sums()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    tune_allocator()


def fix_sums() -> None:
    """Make products independent of the number of threads that a library chooses.

    MKL reads its variables at its first product: later calls have no effect, and `environment.mkl_mode` shows it.
    """
    for name, value in _FIXED_THREADS.items():
        os.environ.setdefault(name, value)
    if _is_by_intel():
        os.environ.setdefault("MKL_CBWR", _FIXED_SUMS)


def _is_by_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return any("GenuineIntel" in line for line in file if line.startswith("vendor_id"))
    except OSError:
        return False


def tune_allocator() -> None:
    """Make glibc serve every block from its heap and never return the heap to the kernel.

    By default glibc maps large blocks separately and trims its heap, and the kernel zeroes each page again at first
    touch: about a third of a training step. Call it before the first large tensor. The process then stays at its peak
    size, which is what `peak_memory_mb` counts anyway. It has no effect without glibc, or under a preloaded allocator
    (tcmalloc, jemalloc).
    """
    if not sys.platform.startswith("linux"):
        return
    process = ctypes.CDLL(None)
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "mallopt"):
        return
    for name, value in {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 << 20}.items():
        process.mallopt(name, value)
    _ask_for_huge_pages(process)


def _ask_for_huge_pages(process: ctypes.CDLL) -> None:
    """Reserve the heap's next addresses and have the kernel back them by pages of 2 MB instead of 4 KB.

    A step touches gigabytes in rows thousands of bytes apart, each on a page of its own, and looking up so many pages
    takes longer than reading them. What is reserved takes no memory until it is used. Where the kernel refuses
    (huge pages off, too few addresses), nothing changes.
    """
    size = min(_RESERVED, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    process.malloc.restype = ctypes.c_void_p
    process.malloc.argtypes = [ctypes.c_size_t]
    process.free.argtypes = [ctypes.c_void_p]
    process.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = process.malloc(size)
    if block is not None:
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        process.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        process.free(block)
