"""Compile the CPU kernels (`csrc`) with the user's C compiler, into the cache or a private folder.

The cached libraries are run as code. So the cache is used only if nobody else can write to it (`ownership.py`), and the
open file that is checked is the one that is loaded. A compiler that hangs is recorded there for a day, or every process
would wait for it.
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
_DIGEST_BYTES = 32  # SHA-256 of the object, appended to its file
_VERSION_SECONDS = 10
_BUILD_SECONDS = 60  # in total; most machines take 5 to 10
_FORGET_AFTER = 24 * 3600  # seconds until a compiler that hung is tried again
_MOST_OUTPUT = 1 << 20  # bytes of a compiler's messages that are read


class Library(NamedTuple):
    """The sources and compiler flags of a library."""

    sources: tuple[str, ...]
    headers: tuple[str, ...]
    flags: tuple[str, ...]


LIBRARIES = {
    torch.bfloat16: Library(
        ("rows.c", "attention.c", "products.c", "lstm.c"),
        ("kernels.h", "vectors.h", "avx512.h", "tiles.h", "lstm.h"),
        _FLAGS,
    ),
    torch.float32: Library(
        ("rows.c", "float_attention.c", "float_products.c", "float_lstm.c"),
        ("kernels.h", "vectors.h", "avx2.h", "panels.h", "lstm.h"),
        (*_FLAGS, "-DFLOATS"),
    ),
}


class KernelsMissing(Exception):
    """There are no compiled kernels; the text is for the user."""


class CacheRefused(Exception):
    """The cache cannot be used for code; the text is for the user. The kernels may still be built elsewhere."""


class DamagedObject(Exception):
    """An object in the cache must not be loaded, and is built again."""


def object_path(dtype: torch.dtype, folder: Path | None = None) -> Path:
    """Return the path of the object; its name is a hash of everything it is built from. Raises KernelsMissing."""
    library = LIBRARIES[dtype]
    parts = [source_text(name) for name in (*library.sources, *library.headers)]
    parts += [*library.flags, compiler_version(), _processor(dtype), _openmp()]
    name = hashlib.sha256(chr(0).join(parts).encode(errors="surrogateescape")).hexdigest()[:40]
    return (cache_folder() if folder is None else folder) / f"{name}.so"


def cache_folder() -> Path:
    return default_cache_dir() / "kernels"


def require_cache(make: bool = True) -> Path:
    """Return the cache's folder for kernels, created if needed; without `make`, only check its place.

    Raises CacheRefused if it cannot be written, if other users can write to it, or if its disk is mounted `noexec`.
    """
    folder = cache_folder()
    try:
        if make:
            with suppress(FileExistsError):
                folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.mkdir(mode=0o700)
        risk = risk_of_folder(folder)
        place = nearest_existing(folder)
        if not place.is_dir() or not (make or os.access(place, os.W_OK)):
            raise PermissionError(errno.EACCES, "a folder cannot be made there", str(place))
        is_noexec = bool(os.statvfs(place).f_flag & os.ST_NOEXEC)
    except OSError as error:
        raise CacheRefused(f"the kernel cache cannot be used ({error}): set IMDBCLS_CACHE to another folder") from error
    if risk is not None:
        raise CacheRefused(f"the kernel cache is not private: {risk}, or set IMDBCLS_CACHE to a folder of your own")
    if is_noexec:
        raise CacheRefused(
            f"nothing on the disk of {folder} may be executed (noexec): set IMDBCLS_CACHE to another disk"
        )
    return folder


def open_object(path: Path) -> int:
    """Open a complete object that only this user can have written. Raises FileNotFoundError, DamagedObject."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedObject(f"{path} cannot be opened ({error})") from error
    try:
        risk = risk_of_file(path, os.fstat(descriptor))
        if risk is not None:
            raise DamagedObject(risk)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read()
        if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
            raise DamagedObject(f"{path} is damaged")  # it could kill the process that maps it
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise DamagedObject(f"{path} cannot be read ({error})") from error
        raise
    return descriptor


def build(dtype: torch.dtype, folder: Path) -> Path:
    """Compile the object and move it into `folder` in one step.

    Raises KernelsMissing, and CacheRefused if the folder cannot be written.
    """
    target, library = object_path(dtype, folder), LIBRARIES[dtype]
    texts = {name: source_text(name) for name in (*library.sources, *library.headers)}
    limit = time.monotonic() + _BUILD_SECONDS
    try:
        with scratch_folder(folder) as place:
            for source, text in texts.items():
                (place / source).write_text(text, encoding="utf-8")
            _run([*compiler(), *library.flags, "-c", *library.sources], place, limit)
            objects = [source.replace(".c", ".o") for source in library.sources]
            # PyTorch's own OpenMP, by its path: a second one would bring a second set of threads.
            _run([*compiler(), "-shared", "-o", "kernels.so", *objects, _openmp(), "-lm"], place, limit)
            built = place / "kernels.so"
            if not built.is_file() or built.is_symlink():
                raise KernelsMissing(f"{' '.join(compiler())} reported no error but produced no library")
            with built.open("ab") as file:
                file.write(hashlib.sha256(built.read_bytes()).digest())
                os.fchmod(file.fileno(), 0o700)  # independent of the umask
            os.replace(built, target)
    except OSError as error:
        raise CacheRefused(
            f"the kernels cannot be written to {folder} ({error}): set IMDBCLS_CACHE to another folder"
        ) from error
    return target


@contextmanager
def remembering_hangs(folder: Path) -> Iterator[None]:
    """Record in `folder` that the compiler hangs. Raises KernelsMissing at once if it did in the last 24 hours."""
    record = folder / f"{_compiler_identity()}.hung"
    if (reason := _recorded(record)) is not None:
        raise KernelsMissing(reason)
    try:
        yield
    except _Hung as error:
        _record(record, str(error))
        raise


def forget_hang() -> None:
    """Forget that the compiler hung: it works now and may be tried again."""
    with suppress(OSError):
        (cache_folder() / f"{_compiler_identity()}.hung").unlink(missing_ok=True)


class _Hung(KernelsMissing):
    pass


def _recorded(record: Path) -> str | None:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        age, reason = time.time() - found["time"], str(found["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not 0 <= age < _FORGET_AFTER:
        return None
    return f"{reason} {age / 3600:.1f} hours ago; python -m imdbcls.doctor tries it again"


def _record(record: Path, reason: str) -> None:
    with suppress(OSError):
        text = json.dumps({"format_version": 1, "time": time.time(), "reason": reason})
        write_atomically(record, text, durable=False)


def _compiler_identity() -> str:
    """Return a hash of the compiler's command and file: if one changes, a compiler that hung is tried again."""
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
    """Return the processor's model and features, which decide the meaning of `-march=native`."""
    if not is_linux_on_x86():
        raise KernelsMissing(f"they are written for Linux on x86-64, and this is {sys.platform} {platform.machine()}")
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        raise KernelsMissing("this processor does not compute in bfloat16 (AVX512-BF16)")
    if dtype == torch.float32 and not torch.cpu._is_avx2_supported():
        raise KernelsMissing("this processor has no AVX2")
    lines = _proc("cpuinfo").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor_id", "cpu family", "model", "flags")))


def _proc(name: str) -> str:
    path = Path("/proc") / name
    try:
        return os.fsdecode(path.read_bytes())
    except OSError as error:
        raise KernelsMissing(f"{path} cannot be read ({error})") from error


def compiler() -> list[str]:
    chosen = os.environ.get("CC") or "cc"
    try:
        command = shlex.split(chosen)
    except ValueError as error:
        raise KernelsMissing(f"CC={chosen} is not a command ({error}); set CC to a C compiler") from error
    if not command or shutil.which(command[0]) is None:
        raise KernelsMissing(f"there is no C compiler ({' '.join(command) or 'CC is empty'}); install gcc, or set CC")
    # Compilers run in the folder of the sources, where ./cc would be another file.
    return [os.path.abspath(command[0]) if "/" in command[0] else command[0], *command[1:]]


def compiler_version() -> str:
    """Return the first line of the compiler's version text. Raises KernelsMissing."""
    return _version_of(tuple(compiler()))


@lru_cache(maxsize=4)
def _version_of(command: tuple[str, ...]) -> str:
    output = _run([*command, "--version"], None, time.monotonic() + _VERSION_SECONDS)
    return output.strip().partition("\n")[0]


def _openmp() -> str:
    """Return the path of the OpenMP library that PyTorch has loaded; its own if other packages have loaded theirs."""
    found = re.findall(r"/\S*/lib(?:gomp|iomp)[^/\s]*\.so\S*", _proc("self/maps"))
    if not found:
        raise KernelsMissing("PyTorch has not loaded an OpenMP library that they could share")
    own = [path for path in found if Path(path).is_relative_to(Path(torch.__file__).parent)]
    return (own or found)[0]


def _run(command: list[str], folder: Path | None, limit: float) -> str:
    """Return a compiler's output. Raises KernelsMissing if it fails, or has not finished at the time `limit`."""
    seconds = limit - time.monotonic()
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
        raise KernelsMissing(f"{command[0]} cannot be run ({error})") from error
    output = in_background(lambda: _read(process))  # a process that outlives the compiler may keep the pipe open
    try:
        process.wait(max(seconds, 0))
    except BaseException as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # the compiler's own processes too
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise _Hung(f"{command[0]} did not finish within {seconds:.0f} seconds") from error
    text = ""
    with suppress(TimeoutError):
        text = output.result(1).decode(errors="replace")
    if process.returncode != 0:
        lines = text.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise KernelsMissing(f"{command[0]} failed: {_printable(first)}")
    return text


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """Return the first bytes of a process's output, then close its pipe."""
    assert process.stdout is not None
    with process.stdout as pipe, suppress(OSError, ValueError):
        return pipe.read(_MOST_OUTPUT)
    return b""


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:200]
