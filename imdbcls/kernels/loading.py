"""Load and call the compiled kernels (`csrc`). The user's C compiler builds them on first use (`building.py`).

There are two libraries, for Linux on x86-64. The bfloat16 library is for processors with AVX512-BF16; it uses AMX if
available. The float32 library is for processors with AVX2 but without AVX-512, as in most laptops. If the kernels are
not available, `load` logs the reason once, and PyTorch's operations are used instead.
"""

import ctypes
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from imdbcls.kernels import building
from imdbcls.kernels.building import CacheRefusedError, DamagedObjectError, KernelsMissingError
from imdbcls.kernels.declarations import read_declarations
from imdbcls.runtime.locks import build_lock

logger = logging.getLogger(__name__)


class Kernels:
    """A loaded library for tensors of `dtype`. `uses_amx` is true if matrix products use the AMX tiles.

    Raise FileNotFoundError if there is no library, and DamagedObjectError if the library is incomplete, is not private
    to this user or cannot be loaded.
    """

    def __init__(self, path: Path, dtype: torch.dtype, allow_amx: bool = True) -> None:
        self.dtype = dtype
        # Load the file by the descriptor that was checked, because the path may now refer to another file. Keep the
        # descriptor open: if a second library got the same descriptor, the loader would return the first library.
        descriptor = building.open_object(path)
        try:
            self._library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        except OSError as error:
            os.close(descriptor)
            reason = str(error).replace(f"/proc/self/fd/{descriptor}: ", "")
            raise DamagedObjectError(f"{path} cannot be loaded ({reason})") from error
        declared = read_declarations(building.source_text("kernels.h"), dtype)
        try:
            self.uses_amx = bool(self._library.start(int(allow_amx)))
            self._library.blocks_of.argtypes = [ctypes.c_int64]
            self._library.blocks_of.restype = ctypes.c_int64
            self.blocks_of: Callable[[int], int] = self._library.blocks_of
            self._functions = {name: (getattr(self._library, name), each) for name, each in declared.items()}
        except AttributeError as error:
            raise DamagedObjectError(f"{path} lacks a required function ({error})") from error
        for function, each in self._functions.values():
            function.argtypes = [*(parameter.c_type for parameter in each.parameters), ctypes.c_int]
            function.restype = ctypes.c_int

    @property
    def name(self) -> str:
        """The name of the kernels in `result.json`: the processor instructions that they use."""
        if self.dtype == torch.float32:
            return "avx2_fp32"
        return "avx512_bf16+amx" if self.uses_amx else "avx512_bf16"

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a kernel with contiguous CPU tensors and numbers.

        Raise TypeError or ValueError for invalid arguments, and MemoryError if the kernel cannot allocate memory.
        """
        function, declared = self._functions[name]
        status = function(*declared.checked(arguments), torch.get_num_threads())
        if status != 0:
            raise declared.failure(status)


@cache
def load(dtype: torch.dtype) -> Kernels | None:
    """Return the kernels for a dtype, built if needed. If they are not available, log the reason and return None.

    For float32, return None without a log message if `supports_float32_kernels` returns False. Then the processor has
    AVX-512, which PyTorch's matrix products already use, or the system is not Linux on x86-64 with AVX2.
    """
    if dtype == torch.float32 and not supports_float32_kernels():
        return None
    try:
        kernels, problem = find_or_build(dtype)
    except KernelsMissingError as error:
        logger.info(
            f"The compiled CPU kernels are not available: {error}. Using PyTorch's operations, at about half the speed."
        )
        return None
    if problem is not None:
        logger.warning(f"{problem}. The CPU kernels are compiled only for this process.")
    return kernels


def supports_float32_kernels() -> bool:
    """Return whether the float32 kernels are for this machine: Linux on x86-64 with AVX2, but without AVX-512."""
    return building.is_linux_on_x86() and torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def find_or_build(dtype: torch.dtype) -> tuple[Kernels, str | None]:
    """Return the kernels, and the reason why the cache was not used (None if it was used).

    Raise KernelsMissingError if the kernels can be neither loaded nor built.
    """
    try:
        return _find_or_build_in(building.require_cache(), dtype), None
    except CacheRefusedError as refused:
        return _build_for_this_process(dtype, because=str(refused)), str(refused)


def _find_or_build_in(folder: Path, dtype: torch.dtype) -> Kernels:
    with building.recording_hangs(folder):
        path = building.object_path(dtype, folder)
        with suppress(FileNotFoundError, DamagedObjectError):
            return Kernels(path, dtype)
        with build_lock(folder / ".lock"):
            try:
                return Kernels(path, dtype)  # another process may have built the library meanwhile
            except FileNotFoundError:
                pass
            except DamagedObjectError as error:
                logger.warning(f"{error}; compiling the CPU kernels again.")
            building.build(dtype, folder)
        try:
            return Kernels(path, dtype)
        except (FileNotFoundError, DamagedObjectError) as error:
            path.unlink(missing_ok=True)
            raise KernelsMissingError(
                f"the library built by {building.compiler()[0]} cannot be used: {error}"
            ) from error


def _build_for_this_process(dtype: torch.dtype, because: str | None = None) -> Kernels:
    try:
        with tempfile.TemporaryDirectory(prefix="imdbcls-kernels-") as name:  # a library may be deleted once loaded
            return _find_or_build_in(Path(name), dtype)
    except (KernelsMissingError, CacheRefusedError, OSError) as error:
        reason = "" if because is None else f" (while compiling only for this process, because {because})"
        raise KernelsMissingError(f"{error}{reason}") from error


def status() -> str:
    """Describe the kernels that `load` would return, for `imdbcls.doctor`.

    Kernels in the cache are loaded. If the cache has no kernels, they are compiled only for this check and not cached.
    If this succeeds, a record that the compiler hung earlier is deleted from the cache.
    """
    dtype = torch.float32 if supports_float32_kernels() else torch.bfloat16
    problem = None
    try:
        compiler = " ".join(building.compiler())
        try:
            folder = building.require_cache(make=False)
            with suppress(FileNotFoundError, DamagedObjectError):
                return (
                    f"{Kernels(building.object_path(dtype, folder), dtype).name}, compiled by {compiler}, in {folder}"
                )
        except CacheRefusedError as refused:
            problem = str(refused)
        kernels = _build_for_this_process(dtype, problem)
    except KernelsMissingError as error:
        return f"none: {error}"
    building.forget_hang()
    when = "when first needed" if problem is None else f"separately in each process: {problem}"
    return f"{kernels.name}, compiled by {compiler} {when} (tested now)"
