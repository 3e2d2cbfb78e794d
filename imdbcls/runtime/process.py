"""Configure the process for PyTorch: the memory allocator, the spinning of threads, and the order of sums."""

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
# At most this many bytes of address space are reserved for the heap in advance. Reserved addresses take no memory.
_MAX_RESERVED_BYTES = 16 << 30

# The number of times that a waiting thread checks for work before it sleeps. libgomp's default is 300,000, which takes
# some milliseconds. If other programs use the cores too, a thread that spins that long delays the threads with work.
_SPIN_COUNT = "2000"

# Without these variables, the libraries may change their number of threads under load.
_FIXED_THREADS = {"MKL_DYNAMIC": "FALSE", "OMP_DYNAMIC": "FALSE"}
# MKL splits long sums of float32 products among threads (3,072 terms in RoBERTa-base), so that the last bits of a sum
# depend on the number of threads. This mode prevents that. On processors that are not from Intel, the mode is slow,
# because MKL then uses SSE2.
_FIXED_SUMS = "AUTO,STRICT"
# cuBLAS gives the same bits on every run only with a workspace of a fixed size (here 8 buffers of 4,096 KiB).
_FIXED_WORKSPACE = ":4096:8"


def prepare_process() -> None:
    """Check the limit of the address space, and apply the settings that must precede the import of PyTorch."""
    limits.require_address_space()
    quiet_libraries()
    tune_process()


def tune_process() -> None:
    """Make threads spin only briefly, fix the order of sums, and keep freed memory in the process.

    Call this function before PyTorch is imported. Variables that the user has set are not changed.
    """
    fix_sums()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    tune_allocator()


def fix_sums() -> None:
    """Fix the order of sums: constant MKL and OpenMP threads, reproducible MKL on Intel, and a fixed cuBLAS workspace.

    MKL reads its environment variables at its first matrix product. Later calls of this function have no effect on MKL.
    `environment.mkl_mode` returns the mode that MKL uses. PyTorch reads CUBLAS_WORKSPACE_CONFIG at the first CUDA
    matrix product of the process, so call this function before it.
    """
    for name, value in _FIXED_THREADS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _FIXED_WORKSPACE)
    if _is_by_intel():
        os.environ.setdefault("MKL_CBWR", _FIXED_SUMS)


def _is_by_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return any("GenuineIntel" in line for line in file if line.startswith("vendor_id"))
    except OSError:
        return False


def tune_allocator() -> None:
    """Make glibc serve every block from its heap and never return memory to the kernel.

    By default, glibc maps large blocks separately and trims its heap. The kernel then zeroes each page again on first
    touch, which takes about a third of a training step. With these settings, the process stays at its peak size.
    `peak_memory_mb` does not change, because it measures the peak. The settings have no effect without glibc or
    with a preloaded allocator (tcmalloc, jemalloc). Call this function before the first large tensor is created.
    """
    if not sys.platform.startswith("linux"):
        return
    process = ctypes.CDLL(None)
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "mallopt"):
        return
    for name, value in {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 << 20}.items():
        process.mallopt(name, value)
    _request_huge_pages(process)


def _request_huge_pages(process: ctypes.CDLL) -> None:
    """Reserve addresses for the heap, and request pages of 2 MB instead of 4 KB for them from the Linux kernel.

    A training step touches gigabytes of memory in rows that are thousands of bytes apart. With small pages, each row is
    on its own page, and looking up the pages takes longer than reading the rows. Reserved addresses take no memory
    until they are used. If the request fails (huge pages are disabled, or the address space is too small), nothing
    changes.
    """
    size = min(_MAX_RESERVED_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    process.malloc.restype = ctypes.c_void_p
    process.malloc.argtypes = [ctypes.c_size_t]
    process.free.argtypes = [ctypes.c_void_p]
    process.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = process.malloc(size)
    if block is not None:
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        process.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        process.free(block)
