"""The compiled kernels (`csrc`), loaded and called: built by the user's C compiler on first use (`building.py`).

There are two libraries of them, for Linux on x86: in bfloat16 for processors that compute in it (AVX512-BF16, with AMX
where it is there), and in float32 for those that have AVX2 and no AVX-512, as most laptops. Where they cannot be had,
`load` logs why, once, and PyTorch's operations are used instead.
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
from imdbcls.kernels.building import CacheRefused, DamagedObject, KernelsMissing
from imdbcls.kernels.declarations import read_declarations
from imdbcls.runtime.locks import build_lock

logger = logging.getLogger(__name__)


class Kernels:
    """The loaded functions, for tensors of `dtype`; `uses_amx` says whether matrix products use the AMX tiles.

    Raises FileNotFoundError, and DamagedObject if the object is incomplete, not this user's or cannot be loaded.
    """

    def __init__(self, path: Path, dtype: torch.dtype, allow_amx: bool = True) -> None:
        self.dtype = dtype
        # Load the open file, which was checked, not the path, which may be another file by now. It stays open: the
        # loader would take a second library of the same name for the first.
        descriptor = building.open_object(path)
        try:
            self._library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        except OSError as error:
            os.close(descriptor)
            reason = str(error).replace(f"/proc/self/fd/{descriptor}: ", "")
            raise DamagedObject(f"{path} cannot be loaded ({reason})") from error
        declared = read_declarations(building.source_text("kernels.h"), dtype)
        try:
            self.uses_amx = bool(self._library.start(int(allow_amx)))
            self._library.blocks_of.argtypes = [ctypes.c_int64]
            self._library.blocks_of.restype = ctypes.c_int64
            self.blocks_of: Callable[[int], int] = self._library.blocks_of
            self._functions = {name: (getattr(self._library, name), each) for name, each in declared.items()}
        except AttributeError as error:
            raise DamagedObject(f"{path} lacks a function ({error})") from error
        for function, each in self._functions.values():
            function.argtypes = [*(parameter.c_type for parameter in each.parameters), ctypes.c_int]
            function.restype = ctypes.c_int

    @property
    def name(self) -> str:
        """What a run records of them: the instructions that their arithmetic uses."""
        if self.dtype == torch.float32:
            return "avx2_fp32"
        return "avx512_bf16+amx" if self.uses_amx else "avx512_bf16"

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a kernel with contiguous CPU tensors and numbers.

        Raises TypeError or ValueError for arguments that it must not be given, MemoryError where it gets no memory.
        """
        function, declared = self._functions[name]
        status = function(*declared.checked(arguments), torch.get_num_threads())
        if status != 0:
            raise declared.failure(status)


@cache
def load(dtype: torch.dtype) -> Kernels | None:
    """Return the kernels of a dtype, built if needed; None, with a logged reason, if they are not available.

    Also None, silently, for float32 where `is_for_floats` is false: PyTorch's products use AVX-512 there, or the system
    is not Linux on x86 with AVX2.
    """
    if dtype == torch.float32 and not is_for_floats():
        return None
    try:
        kernels, problem = find_or_build(dtype)
    except KernelsMissing as error:
        logger.info(
            f"No compiled CPU kernels: {error}. PyTorch's operations are used instead, at about half the speed."
        )
        return None
    if problem is not None:
        logger.warning(f"{problem}. The CPU kernels were compiled for this process only.")
    return kernels


def is_for_floats() -> bool:
    """Whether this is a processor that the kernels in float32 were written for."""
    return building.is_linux_on_x86() and torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def find_or_build(dtype: torch.dtype) -> tuple[Kernels, str | None]:
    """The kernels, and why they are not from the cache, if so. Raises KernelsMissing."""
    try:
        return _find_or_build_in(building.require_cache(), dtype), None
    except CacheRefused as refused:
        return _build_for_this_process(dtype, because=str(refused)), str(refused)


def _find_or_build_in(folder: Path, dtype: torch.dtype) -> Kernels:
    with building.remembering_hangs(folder):
        path = building.object_path(dtype, folder)
        with suppress(FileNotFoundError, DamagedObject):
            return Kernels(path, dtype)
        with build_lock(folder / ".lock"):
            try:
                return Kernels(path, dtype)  # which another process built meanwhile
            except FileNotFoundError:
                pass
            except DamagedObject as error:
                logger.warning(f"{error}; the CPU kernels are compiled again.")
            building.build(dtype, folder)
        try:
            return Kernels(path, dtype)
        except (FileNotFoundError, DamagedObject) as error:
            path.unlink(missing_ok=True)
            raise KernelsMissing(f"what {building.compiler()[0]} makes cannot be used: {error}") from error


def _build_for_this_process(dtype: torch.dtype, because: str | None = None) -> Kernels:
    try:
        with tempfile.TemporaryDirectory(prefix="imdbcls-kernels-") as name:  # what is loaded may be removed
            return _find_or_build_in(Path(name), dtype)
    except (KernelsMissing, CacheRefused, OSError) as error:
        reason = "" if because is None else f" (for this process only, because {because})"
        raise KernelsMissing(f"{error}{reason}") from error


def status() -> str:
    """Return what `load` will find, for the doctor: the kernels are loaded, or compiled only for this check.

    Nothing is written to the cache, except that a compiler that hung before and works now may be tried again.
    """
    dtype = torch.float32 if is_for_floats() else torch.bfloat16
    problem = None
    try:
        compiler = " ".join(building.compiler())
        try:
            folder = building.require_cache(make=False)
            with suppress(FileNotFoundError, DamagedObject):
                return (
                    f"{Kernels(building.object_path(dtype, folder), dtype).name}, compiled by {compiler}, in {folder}"
                )
        except CacheRefused as refused:
            problem = str(refused)
        kernels = _build_for_this_process(dtype, problem)
    except KernelsMissing as error:
        return f"none: {error}"
    building.forget_hang()
    when = "when first needed" if problem is None else f"separately in each process: {problem}"
    return f"{kernels.name}, compiled by {compiler} {when} (tried out now)"
