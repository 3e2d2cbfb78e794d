"""The compiled kernels (`csrc`): built by the user's C compiler on first use, kept in the user's cache.

There are two libraries of them, for Linux on x86: in bfloat16 for processors that compute in it (AVX512-BF16, with AMX
where it is there), and in float32 for those that have AVX2 and no AVX-512, as most laptops. Where they cannot be had,
`load` says why, once, and PyTorch's operations take their place.
"""

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imdbcls.console import say
from imdbcls.data.cache import default_cache_dir

_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
_DIGEST_BYTES = 32  # of the object's SHA-256, which follow it in its file
_BUILD_SECONDS = 120

# p: address (None: NULL), i: int64, n: int, f: float, u: uint32, s: uint64
_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int64,
    "n": ctypes.c_int,
    "f": ctypes.c_float,
    "u": ctypes.c_uint32,
    "s": ctypes.c_uint64,
}
_OF_BOTH = {
    "add_and_normalise": "pppppppppiifsuufn",
    "add_and_normalise_backward": "ppppppppppiifn",
    "normalise_and_drop": "pppppppiifsuufn",
    "normalise_and_drop_backward": "pppppppppiifn",
    "gelu": "ppiin",
    "gelu_backward": "ppppiin",
    "attention": "pppppiiin",
    "attention_backward": "ppppppppiiin",
    "weight_gradient": "pppiiin",
    "lstm": "ppppppiinn",
    "lstm_backward": "pppppppiinn",
}


class Library(NamedTuple):
    """What a library is built from, and the types of its functions' arguments."""

    sources: tuple[str, ...]
    headers: tuple[str, ...]
    flags: tuple[str, ...]
    signatures: dict[str, str]


_LIBRARIES = {
    torch.bfloat16: Library(
        ("rows.c", "attention.c", "products.c", "lstm.c"),
        ("vectors.h", "avx512.h", "tiles.h", "lstm.h"),
        _FLAGS,
        _OF_BOTH,
    ),
    torch.float32: Library(
        ("rows.c", "float_attention.c", "float_products.c", "float_lstm.c"),
        ("vectors.h", "avx2.h", "panels.h", "lstm.h"),
        (*_FLAGS, "-DFLOATS"),
        {**_OF_BOTH, "pack_weight": "ppiin", "linear": "ppppiiin", "linear_backward": "pppiiin"},
    ),
}


class KernelsMissing(Exception):
    """Why there are no compiled kernels, in words for the user."""


class Kernels:
    """The loaded functions, for tensors of `dtype`; `uses_amx` says whether matrix products take the AMX tiles."""

    def __init__(self, path: Path, dtype: torch.dtype, allow_amx: bool = True) -> None:
        self.dtype = dtype
        self._library = ctypes.CDLL(str(path))
        self.uses_amx = bool(self._library.start(int(allow_amx)))
        self._library.blocks_of.argtypes = [ctypes.c_int64]
        self._library.blocks_of.restype = ctypes.c_int64
        self.blocks_of: Callable[[int], int] = self._library.blocks_of
        for name, signature in _LIBRARIES[dtype].signatures.items():
            function = getattr(self._library, name)
            function.argtypes = [_TYPES[letter] for letter in signature]
            function.restype = None

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a kernel with contiguous CPU tensors and numbers; the number of PyTorch's threads comes last."""
        passed: list[Any] = []
        for argument in arguments:
            if isinstance(argument, Tensor):
                assert argument.is_contiguous(), f"{name} was given a tensor with strides {argument.stride()}"
                passed.append(argument.data_ptr())
            else:
                passed.append(argument)
        getattr(self._library, name)(*passed, torch.get_num_threads())


@cache
def load(dtype: torch.dtype) -> Kernels | None:
    """The kernels of a dtype, built if need be; None where they cannot be had, which is said.

    None, too, and nothing said, for float32 where `is_for_floats` is not so: PyTorch's products have AVX-512 there, or
    the system is not Linux on x86 with AVX2.
    """
    if dtype == torch.float32 and not is_for_floats():
        return None
    try:
        return Kernels(find(dtype) or build(dtype), dtype)
    except KernelsMissing as error:
        say(f"No compiled CPU kernels: {error}. PyTorch's operations take their place, at about half the speed.")
        return None


def is_for_floats() -> bool:
    """Whether this is a processor that the kernels in float32 were written for."""
    return _is_linux_on_x86() and torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def status() -> str:
    """What `load` would find, without building anything."""
    dtype = torch.float32 if is_for_floats() else torch.bfloat16
    try:
        path = find(dtype)
        compiler = " ".join(_compiler())
    except KernelsMissing as error:
        return f"none: {error}"
    name = str(dtype).removeprefix("torch.")
    if path is None:
        return f"{name}, built by {compiler} when first needed"
    return f"{name}, built by {compiler}, in {path.parent}"


def find(dtype: torch.dtype) -> Path | None:
    """The shared object in the cache, where it is there and whole. Raises KernelsMissing."""
    path = _cached_path(dtype)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole = hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]
    return path if whole else None  # a damaged one could kill the process that maps it


def build(dtype: torch.dtype) -> Path:
    """Compile and put the object into the cache whole: several processes may do so at once. Raises KernelsMissing."""
    target, library = _cached_path(dtype), _LIBRARIES[dtype]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as name:
            folder = Path(name)
            for source in (*library.sources, *library.headers):
                (folder / source).write_text(_text(source), encoding="utf-8")
            _run([*_compiler(), *library.flags, "-c", *library.sources], folder)
            objects = [source.replace(".c", ".o") for source in library.sources]
            # PyTorch's own OpenMP, by its path: a second one would bring a second set of threads.
            _run([*_compiler(), "-shared", "-o", "kernels.so", *objects, _openmp(), "-lm"], folder)
            built = folder / "kernels.so"
            with built.open("ab") as file:
                file.write(hashlib.sha256(built.read_bytes()).digest())
            os.replace(built, target)
    except OSError as error:
        raise KernelsMissing(f"they cannot be written to {target.parent} ({error})") from error
    return target


def _cached_path(dtype: torch.dtype) -> Path:
    library = _LIBRARIES[dtype]
    parts = [_text(name) for name in (*library.sources, *library.headers)]
    parts += [*library.flags, _compiler_version(), _processor(dtype), _openmp()]
    return default_cache_dir() / "kernels" / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:40]}.so"


def _text(name: str) -> str:
    return files("imdbcls.fast").joinpath("csrc", name).read_text(encoding="utf-8")


def _is_linux_on_x86() -> bool:
    return sys.platform.startswith("linux") and platform.machine() == "x86_64"


def _processor(dtype: torch.dtype) -> str:
    """The processor's model and abilities, all that `-march=native` reads."""
    if not _is_linux_on_x86():
        raise KernelsMissing(f"they are written for Linux on x86-64, and this is {sys.platform} {platform.machine()}")
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        raise KernelsMissing("this processor does not compute in bfloat16 (AVX512-BF16)")
    if dtype == torch.float32 and not torch.cpu._is_avx2_supported():
        raise KernelsMissing("this processor has no AVX2")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor_id", "cpu family", "model", "flags")))


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        raise KernelsMissing(f"there is no C compiler ({' '.join(command) or 'CC is empty'}); install gcc, or set CC")
    return command


@lru_cache(maxsize=1)
def _compiler_version() -> str:
    return _run([*_compiler(), "--version"], None).splitlines()[0]


def _openmp() -> str:
    """The path of the OpenMP library that PyTorch has loaded: its own, where other packages have brought theirs."""
    found = re.findall(r"/\S*/lib(?:gomp|iomp)[^/\s]*\.so\S*", Path("/proc/self/maps").read_text(encoding="utf-8"))
    if not found:
        raise KernelsMissing("PyTorch has not loaded an OpenMP library that they could share")
    own = [path for path in found if Path(path).is_relative_to(Path(torch.__file__).parent)]
    return (own or found)[0]


def _run(command: list[str], folder: Path | None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise KernelsMissing(f"{command[0]} did not finish within {_BUILD_SECONDS} seconds") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise KernelsMissing(f"{' '.join(command[:1])} failed: {first[:200]}")
    return done.stdout
