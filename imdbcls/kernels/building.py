"""Compile the CPU kernels (`csrc`) with the user's C compiler, into the cache or a private folder.

A cached library runs as code. So the cache is used only if no other user can write to it (`ownership.py`). The library
is loaded through the file descriptor that was checked. If the compiler hangs, the cache records this for a day,
so that other processes do not wait for the compiler again.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch

from imdbcls.runtime.atomic import scratch_folder, write_atomically
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.ownership import nearest_existing, risk_of_file, risk_of_folder
from imdbcls.runtime.waiting import in_background

_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
_DIGEST_BYTES = 32  # the SHA-256 of the library, appended to its file
_VERSION_SECONDS = 10
_BUILD_SECONDS = 60  # in total; most machines need 5 to 10 seconds
_RETRY_AFTER = 24 * 3600  # seconds until a compiler that hung is tried again
_MAX_OUTPUT = 1 << 20  # bytes of compiler output that are read


class Library(NamedTuple):
    """The sources and compiler flags of a library."""

    sources: tuple[str, ...]
    headers: tuple[str, ...]
    flags: tuple[str, ...]


LIBRARIES = {
    torch.bfloat16: Library(
        ("rows.c", "attention.c", "products.c", "lstm.c", "gru.c"),
        ("kernels.h", "vectors.h", "avx512.h", "tiles.h", "recurrence.h", "lstm.h", "gru.h"),
        _FLAGS,
    ),
    torch.float32: Library(
        ("rows.c", "float_attention.c", "float_products.c", "float_lstm.c", "float_gru.c"),
        ("kernels.h", "vectors.h", "avx2.h", "panels.h", "recurrence.h", "lstm.h", "gru.h"),
        (*_FLAGS, "-DFLOATS"),
    ),
}


class KernelsMissingError(Exception):
    """Raised if the compiled kernels are not available. The message is for the user."""


class CacheRefusedError(Exception):
    """Raised if the kernels cannot or must not be stored in a folder. The message is for the user."""


class DamagedObjectError(Exception):
    """Raised if a cached library must not be loaded and has to be built again."""


def object_path(dtype: torch.dtype, folder: Path | None = None) -> Path:
    """Return the path of the library for a dtype in `folder`. If `folder` is None, use the cache folder.

    The file name is a hash of the sources, the flags, the compiler, the processor and the OpenMP library.
    Raise KernelsMissingError if this machine cannot compile or run the kernels.
    """
    library = LIBRARIES[dtype]
    parts = [source_text(name) for name in (*library.sources, *library.headers)]
    parts += [*library.flags, compiler_version(), _processor(dtype), _openmp()]
    name = hashlib.sha256(chr(0).join(parts).encode(errors="surrogateescape")).hexdigest()[:40]
    return (cache_folder() if folder is None else folder) / f"{name}.so"


def cache_folder() -> Path:
    return default_cache_dir() / "kernels"


def require_cache(make: bool = True) -> Path:
    """Return the kernel folder of the cache. Create the folder if `make`, or only check that the user can create it.

    Raise CacheRefusedError if the user cannot create or write the folder, if other users can write to it, or if its
    disk is mounted `noexec`.
    """
    folder = cache_folder()
    try:
        if make:
            with suppress(FileExistsError):
                folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.mkdir(mode=0o700)
        risk = risk_of_folder(folder)
        parent = nearest_existing(folder)
        if not parent.is_dir() or not (make or os.access(parent, os.W_OK)):
            raise PermissionError(errno.EACCES, "cannot create a folder here", str(parent))
        is_noexec = bool(os.statvfs(parent).f_flag & os.ST_NOEXEC)
    except OSError as error:
        raise CacheRefusedError(
            f"the kernel cache cannot be used ({error}): set IMDBCLS_CACHE to another folder"
        ) from error
    if risk is not None:
        raise CacheRefusedError(
            f"the kernel cache is not private: {risk}; you can set IMDBCLS_CACHE to a folder that only you can write to"
        )
    if is_noexec:
        raise CacheRefusedError(
            f"the disk of {folder} does not allow executing files (noexec): set IMDBCLS_CACHE to a folder on another "
            "disk"
        )
    return folder


def open_object(path: Path) -> int:
    """Open a library, check that it is complete and that only this user can write to it, and return its descriptor.

    Raise FileNotFoundError if there is no library, and DamagedObjectError if a check fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedObjectError(f"{path} cannot be opened ({error})") from error
    try:
        risk = risk_of_file(path, os.fstat(descriptor))
        if risk is not None:
            raise DamagedObjectError(risk)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read()
        if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
            raise DamagedObjectError(f"{path} is damaged")  # loading a truncated library can kill the process
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise DamagedObjectError(f"{path} cannot be read ({error})") from error
        raise
    return descriptor


def build(dtype: torch.dtype, folder: Path) -> Path:
    """Compile the library for a dtype and move it into `folder` atomically.

    Raise KernelsMissingError if the library cannot be compiled, and CacheRefusedError if `folder` cannot be written.
    """
    target, library = object_path(dtype, folder), LIBRARIES[dtype]
    texts = {name: source_text(name) for name in (*library.sources, *library.headers)}
    deadline = time.monotonic() + _BUILD_SECONDS
    try:
        with scratch_folder(folder) as scratch:
            for source, text in texts.items():
                (scratch / source).write_text(text, encoding="utf-8")
            _run([*compiler(), *library.flags, "-c", *library.sources], scratch, deadline)
            objects = [source.replace(".c", ".o") for source in library.sources]
            # Link PyTorch's own OpenMP library by its path. A second library would start a second set of threads.
            _run([*compiler(), "-shared", "-o", "kernels.so", *objects, _openmp(), "-lm"], scratch, deadline)
            built = scratch / "kernels.so"
            if not built.is_file() or built.is_symlink():
                raise KernelsMissingError(f"{' '.join(compiler())} reported no error but produced no library")
            with built.open("ab") as file:
                file.write(hashlib.sha256(built.read_bytes()).digest())
                os.fchmod(file.fileno(), 0o700)  # independent of the umask
            os.replace(built, target)
    except OSError as error:
        raise CacheRefusedError(
            f"the kernels cannot be written to {folder} ({error}): set IMDBCLS_CACHE to another folder, or TMPDIR if "
            "this folder is temporary"
        ) from error
    return target


@contextmanager
def recording_hangs(folder: Path) -> Iterator[None]:
    """If the compiler hangs in this block, write a record to `folder`.

    Raise KernelsMissingError at once if such a record is less than 24 hours old.
    """
    record = folder / f"{_compiler_identity()}.hung"
    if (reason := _recorded(record)) is not None:
        raise KernelsMissingError(reason)
    try:
        yield
    except _HungError as error:
        _record(record, str(error))
        raise


def forget_hang() -> None:
    """Delete the record of a compiler that hung, so that the compiler is tried again."""
    with suppress(OSError):
        (cache_folder() / f"{_compiler_identity()}.hung").unlink(missing_ok=True)


class _HungError(KernelsMissingError):
    pass


def _recorded(record: Path) -> str | None:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        age, reason = time.time() - found["time"], str(found["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not 0 <= age < _RETRY_AFTER:
        return None
    return f"{age / 3600:.1f} hours ago, {reason}; run python -m imdbcls.doctor to try the compiler again"


def _record(record: Path, reason: str) -> None:
    with suppress(OSError):
        text = json.dumps({"format_version": 1, "time": time.time(), "reason": reason})
        write_atomically(record, text, durable=False)


def _compiler_identity() -> str:
    """Return a hash of the compiler's command and of its file's path, size and time of change.

    A compiler that hung is tried again once this hash changes.
    """
    command = compiler()
    path = os.path.realpath(shutil.which(command[0]) or command[0])
    found = os.stat(path)
    parts = [*command, path, str(found.st_size), str(found.st_mtime_ns)]
    return hashlib.sha256(chr(0).join(parts).encode(errors="surrogateescape")).hexdigest()[:40]


@cache
def source_text(name: str) -> str:
    return files("imdbcls.kernels").joinpath("csrc", name).read_text(encoding="utf-8")


def is_linux_on_x86() -> bool:
    return sys.platform.startswith("linux") and platform.machine() == "x86_64"


def _processor(dtype: torch.dtype) -> str:
    """Return the processor's model and features, which determine the meaning of `-march=native`.

    Raise KernelsMissingError if the processor does not support the kernels.
    """
    if not is_linux_on_x86():
        raise KernelsMissingError(f"the kernels need Linux on x86-64, but this is {sys.platform} {platform.machine()}")
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        raise KernelsMissingError("this processor has no bfloat16 instructions (AVX512-BF16)")
    if dtype == torch.float32 and not torch.cpu._is_avx2_supported():
        raise KernelsMissingError("this processor has no AVX2")
    lines = _proc("cpuinfo").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor_id", "cpu family", "model", "flags")))


def _proc(name: str) -> str:
    path = Path("/proc") / name
    try:
        return os.fsdecode(path.read_bytes())
    except OSError as error:
        raise KernelsMissingError(f"{path} cannot be read ({error})") from error


def compiler() -> list[str]:
    chosen = os.environ.get("CC") or "cc"
    try:
        command = shlex.split(chosen)
    except ValueError as error:
        raise KernelsMissingError(f"CC={chosen} is not a valid command ({error}); set CC to a C compiler") from error
    if not command or shutil.which(command[0]) is None:
        raise KernelsMissingError(
            f"no C compiler was found ({' '.join(command) or 'CC is empty'}); install gcc, or set CC"
        )
    # The compiler runs in the folder of the sources, so a relative path to the compiler must become absolute.
    return [os.path.abspath(command[0]) if "/" in command[0] else command[0], *command[1:]]


def compiler_version() -> str:
    """Return the first line of the compiler's `--version` output. Raise KernelsMissingError if the compiler fails."""
    return _version_of(tuple(compiler()))


@lru_cache(maxsize=4)
def _version_of(command: tuple[str, ...]) -> str:
    output = _run([*command, "--version"], None, time.monotonic() + _VERSION_SECONDS)
    return output.strip().partition("\n")[0]


def _openmp() -> str:
    """Return the path of the OpenMP library that PyTorch has loaded.

    If several are loaded, prefer the library inside PyTorch's folder.
    """
    found = re.findall(r"/\S*/lib(?:gomp|iomp)[^/\s]*\.so\S*", _proc("self/maps"))
    if not found:
        raise KernelsMissingError("the kernels need PyTorch's OpenMP library, but PyTorch has not loaded it")
    own = [path for path in found if Path(path).is_relative_to(Path(torch.__file__).parent)]
    return (own or found)[0]


def _run(command: list[str], folder: Path | None, deadline: float) -> str:
    """Run a compiler and return its output. Raise KernelsMissingError if it fails or does not finish by `deadline`."""
    seconds = deadline - time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise KernelsMissingError(f"{command[0]} cannot be run ({error})") from error
    output = in_background(lambda: _read(process))  # because a child process of the compiler may keep the pipe open
    seconds = max(seconds, 0)
    try:
        process.wait(seconds)
    except BaseException as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # includes the compiler's child processes
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise _HungError(f"{command[0]} did not finish within {seconds:.0f} seconds") from error
    text = ""
    with suppress(TimeoutError):
        text = output.result(1).decode(errors="replace")
    if process.returncode != 0:
        lines = text.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise KernelsMissingError(f"{command[0]} failed: {_printable(first)}")
    return text


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """Read at most _MAX_OUTPUT bytes of a process's output and close the pipe. Return b"" if reading fails."""
    assert process.stdout is not None
    with process.stdout as pipe, suppress(OSError, ValueError):
        return pipe.read(_MAX_OUTPUT)
    return b""


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:200]
