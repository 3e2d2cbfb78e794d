"""Tests for building, caching and loading the compiled kernels, and for the fallback to PyTorch."""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.encoders import distance, make, make_batch, run
from support.hardware import HAS_HALF, needs_kernels, needs_kernels_in_use
from support.kernels import HALF
from support.limits import HANG_SECONDS
from support.runs import ROOT

from imdbcls.kernels import building, loading
from imdbcls.kernels.encoder import accelerate
from imdbcls.runtime import ownership

DTYPE = HALF if HAS_HALF else torch.float32

pytestmark = needs_kernels

BUILD = f"""
import torch
from imdbcls.kernels import building, loading
loading.find_or_build({DTYPE})
print(building.object_path({DTYPE}))
"""
# Print a hash of all results of a training pass. The caller chooses a byte that fills newly allocated memory.
PASS = f"""
import hashlib, sys
sys.path.insert(0, "tests")
import torch
from support.encoders import make, make_batch, run
from imdbcls.kernels.encoder import accelerate
torch.set_num_threads(1)
model = make("bert", hidden_dropout_prob=0.1, hidden_size=72).train()
accelerate(model)
torch.manual_seed(3)
hidden, gradients = run(model, *make_batch(model), bf16={HAS_HALF})
digest = hashlib.sha256(hidden.numpy().tobytes())
for gradient in gradients.values():
    digest.update(gradient.numpy().tobytes())
print(digest.hexdigest())
"""
OTHERS_CODE = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) {{ FILE *file = fopen("{trace}", "w"); if (file) fclose(file); }}
"""


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an empty cache. Compile without optimization, because this takes only a second."""
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "cache"))
    library = building.LIBRARIES[DTYPE]
    flags = tuple(flag for flag in library.flags if flag != "-O3")
    monkeypatch.setitem(building.LIBRARIES, DTYPE, library._replace(flags=(*flags, "-O0")))
    forget()
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    """Clear the cached kernels and the cached compiler version, as in a new process."""
    loading.load.cache_clear()
    building._version_of.cache_clear()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def load(capsys: pytest.CaptureFixture[str]) -> tuple[loading.Kernels | None, str]:
    """Load the kernels for DTYPE as in a new process, even if runs do not use them. Return the kernels and the log."""
    forget()
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "supports_float32_kernels", lambda: not HAS_HALF)
        found = loading.load(DTYPE)
        assert loading.load(DTYPE) is found  # loading again logs nothing
    return found, capsys.readouterr().err


def works(loaded: loading.Kernels | None) -> bool:
    assert loaded is not None
    x_NF, active_NF = torch.ones(2, 8, dtype=DTYPE), torch.zeros(2, 8, dtype=DTYPE)
    loaded.call("gelu", x_NF, active_NF, 2, 8)
    return bool(((active_NF.float() - 0.8413).abs() < 0.01).all())


# ---- Building


def test_two_processes_build_together_and_damaged_library_is_rebuilt(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builders = [start(BUILD, IMDBCLS_CACHE=str(cache)) for _ in range(2)]
    printed = {builder.communicate()[0].strip() for builder in builders}
    (path,) = (cache / "kernels").iterdir()
    assert printed == {str(path)}
    assert path.stat().st_mode & 0o777 == 0o700 and path.parent.stat().st_mode & 0o777 == 0o700
    loaded, logged = load(capsys)  # the flags of `cache` differ, so this process builds its own library
    assert works(loaded) and logged == ""
    path = building.object_path(DTYPE)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:5000] + b"\0" * 100 + content[5100:], b""):
        path.unlink()
        path.write_bytes(damaged)
        path.chmod(0o700)
        loaded, logged = load(capsys)
        assert works(loaded) and logged.count("\n") == 1
        assert f"{path} is damaged; compiling the CPU kernels again." in logged
        assert path.read_bytes()[-32:] == hashlib.sha256(path.read_bytes()[:-32]).digest()
    assert load(capsys)[1] == ""


def test_unloadable_library_is_rebuilt_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The digest of the file is correct, but the file is not a library."""
    building.require_cache()
    path = building.object_path(DTYPE)
    path.write_bytes(b"junk" + hashlib.sha256(b"junk").digest())
    loaded, logged = load(capsys)
    assert (
        works(loaded)
        and logged.count("\n") == 1
        and "file too short" in logged
        and "compiling the CPU kernels again" in logged
    )


def test_permissions_do_not_depend_on_umask(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0)
    try:
        loaded, logged = load(capsys)
        assert works(loaded) and logged == ""
        for path in (cache, cache / "kernels", building.object_path(DTYPE)):
            assert path.stat().st_mode & 0o077 == 0
        assert load(capsys)[1] == ""
    finally:
        os.umask(before)


def test_openmp_library_is_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn loads another OpenMP library, which would start a second set of threads."""
    import sklearn.metrics  # noqa: F401

    own = Path(torch.__file__).parent / "lib"
    if list(own.glob("lib[gi]omp*")):
        assert Path(building._openmp()).parent == own
    else:  # this build of PyTorch uses the system's library
        assert building._openmp() in Path("/proc/self/maps").read_text(encoding="utf-8")
    before, after = ("7f r-xp 0 0:1 2 /elsewhere/libgomp-e985.so.1", "7f r-xp 0 0:1 3 /other/libiomp5.so")
    pytorch_s = str(own / "libgomp.so.1")
    for lines in ([before, f"7f r-xp 0 0:1 4 {pytorch_s}", after], [f"7f r-xp 0 0:1 4 {pytorch_s}"]):
        monkeypatch.setattr(building, "_proc", lambda name, lines=lines: "\n".join(lines))
        assert building._openmp() == pytorch_s
    monkeypatch.setattr(building, "_proc", lambda name: f"{before}\n{after}")
    assert building._openmp() == "/elsewhere/libgomp-e985.so.1"


def test_results_do_not_depend_on_previous_memory_content() -> None:
    passes = [start(PASS, MALLOC_PERTURB_=byte) for byte in ("85", "255")]
    first, second = (each.communicate()[0] for each in passes)
    assert len(first.strip()) == 64 and first == second


# ---- Missing and broken compilers


@needs_kernels_in_use
@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "no C compiler was found (no-such-compiler); install gcc"), ("false", "false failed")],
)
def test_without_compiler_pytorch_is_used(
    compiler: str, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", compiler)
    model = make("bert")
    exact, _ = run(model, *make_batch(model), bf16=False)
    accelerate(model)
    for _ in range(2):
        found, gradients = run(model, *make_batch(model), bf16=HAS_HALF)
    assert distance(found, exact) < 0.02 and gradients
    assert capsys.readouterr().err.count(reason) == 1
    assert reason in loading.status() and list((cache / "kernels").iterdir()) == []


def test_invalid_compiler_logs_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = 'case "$*" in *--version*) echo cc 1; exit 0;; esac'
    scripts = {
        "silent": ("exit 0", "reported no error but produced no library"),
        "binary": ("printf '\\377\\033'", "reported no error but produced no library"),
        "talks": ("printf 'error: \\377\\033[2J' >&2; exit 3", "talks failed: error: \ufffd [2J"),
        "junk": (f"{version}; echo junk > kernels.so", "cannot be loaded (file too short)"),
        "endless": ("exec yes", "endless failed: y"),
    }
    compilers = {str(script(tmp_path / name, text)): reason for name, (text, reason) in scripts.items()}
    compilers |= {
        "gcc '": "CC=gcc ' is not a valid command (No closing quotation); set CC to a C compiler",
        "  ": "CC is empty",
        "/": "no C compiler was found (/)",
        f"{tmp_path}": "no C compiler was found",
        "gcc --no-such-option": "gcc failed: ",
    }
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o700)
    compilers[f"{tmp_path / 'text'}"] = "cannot be run ([Errno 8] Exec format error"
    for compiler, reason in compilers.items():
        monkeypatch.setenv("CC", compiler)
        loaded, logged = load(capsys)
        assert loaded is None and logged.count("\n") == 1, (compiler, logged)
        assert logged.startswith("The compiled CPU kernels are not available: ") and reason in logged, (
            compiler,
            logged,
        )
        assert "\033" not in logged and loading.status().startswith("none: ")
    assert not list((cache / "kernels").glob("*.so"))


def test_unreadable_proc_disables_kernels(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulate a container in which a file of /proc cannot be read."""
    read = Path.read_bytes
    for name in ("cpuinfo", "self/maps"):

        def hidden(path: Path, name: str = name) -> bytes:
            if path == Path("/proc") / name:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", hidden)
        loaded, logged = load(capsys)
        assert loaded is None and logged.count("\n") == 1 and f"/proc/{name} cannot be read" in logged


@pytest.mark.parametrize("hangs_at", ["--version", "-c", "-shared"])
def test_hanging_compiler_is_tried_once_a_day(
    hangs_at: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pids, calls = tmp_path / "pids", tmp_path / "calls"
    hang = f"(sleep 3600 & echo $! >> {pids}; wait)"
    compiler = script(
        tmp_path / "slow",
        f'echo >> {calls}; case "$*" in *{hangs_at}*) {hang};; *--version*) ;; *) touch kernels.so;; esac',
    )
    monkeypatch.setenv("CC", str(compiler))
    # With 3 seconds, even a busy machine starts the script.
    monkeypatch.setattr(building, "_VERSION_SECONDS", 3 if hangs_at == "--version" else HANG_SECONDS)
    monkeypatch.setattr(building, "_BUILD_SECONDS", 3)
    loaded, logged = load(capsys)
    assert loaded is None and "slow did not finish within" in logged and logged.count("\n") == 1
    num_calls = len(calls.read_text().splitlines())
    for _ in range(2):  # simulate other processes
        loaded, logged = load(capsys)
        assert loaded is None and logged.count("\n") == 1
        assert "run python -m imdbcls.doctor to try the compiler again" in logged and "0.0 hours ago" in logged
    assert len(calls.read_text().splitlines()) == num_calls
    assert "did not finish" in loading.status() and len(calls.read_text().splitlines()) > num_calls
    for pid in map(int, pids.read_text().split()):
        limit = time.monotonic() + HANG_SECONDS  # a killed process ends a little later
        while is_running(pid):
            assert time.monotonic() < limit, "a child process of the compiler is still running"
            time.sleep(0.05)

    num_calls = len(calls.read_text().splitlines())
    (record,) = (cache / "kernels").glob("*.hung")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"time": time.time() - 25 * 3600}))
    load(capsys)
    assert len(calls.read_text().splitlines()) > num_calls  # the compiler is tried again after a day
    num_calls = len(calls.read_text().splitlines())
    for damaged in ("", "[]", '{"time": "now"}', '{"time": 1e999, "reason": 3}'):
        record.write_text(damaged)
        monkeypatch.setattr(building, "_VERSION_SECONDS", 0.1)
        monkeypatch.setattr(building, "_BUILD_SECONDS", 0.1)
        loaded, logged = load(capsys)
        assert loaded is None and "did not finish within 0 seconds" in logged
    monkeypatch.undo()


def test_repaired_compiler_is_tried_immediately(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = script(tmp_path / "mine", "sleep 600".ljust(30))
    monkeypatch.setenv("CC", str(compiler))
    with monkeypatch.context() as patch:
        patch.setattr(building, "_VERSION_SECONDS", 0.5)
        assert load(capsys)[0] is None
    (record,) = (cache / "kernels").glob("*.hung")
    stamp = compiler.stat().st_mtime_ns
    assert load(capsys)[0] is None and record.exists()
    script(compiler, 'exec cc "$@"'.ljust(30))
    os.utime(compiler, ns=(stamp, stamp))  # size and time are unchanged, so only the doctor tries the compiler
    assert load(capsys)[0] is None
    assert loading.status().startswith(f"{'avx512_bf16' if HAS_HALF else 'avx2_fp32'}")
    assert list((cache / "kernels").iterdir()) == []
    loaded, logged = load(capsys)
    assert works(loaded) and logged == ""

    script(compiler, "sleep 600")
    with monkeypatch.context() as patch:
        patch.setattr(building, "_VERSION_SECONDS", 0.5)
        assert load(capsys)[0] is None
    script(compiler, 'exec cc "$@"')  # a changed file is tried without the doctor
    assert works(load(capsys)[0])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- Ownership and permissions of libraries


Spoil = Callable[[Path, pytest.MonkeyPatch], None]


def open_to_all(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "kernels").chmod(0o777)


def open_to_a_group(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "kernels").chmod(0o770)
    monkeypatch.setattr(ownership, "_is_own_group", lambda gid: False)


def below_an_open_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.chmod(0o777)


def a_link(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "kernels").rename(cache / "elsewhere")
    (cache / "kernels").symlink_to(cache / "elsewhere")


def owned_by_another_user(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(cache / "kernels", monkeypatch)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the owner if the test runs as root, else let `os.geteuid` return another user from now on."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (open_to_all, "other users can write to {kernels}: run `chmod go-w {kernels}`"),
        (open_to_a_group, "other users can write to {kernels}: run `chmod go-w {kernels}`"),
        (below_an_open_folder, "other users can write to {cache}: run `chmod go-w {cache}`"),
        (a_link, "{kernels} is a symbolic link: replace it with a folder"),
        (owned_by_another_user, "belongs to another user ("),
    ],
)
def test_cache_writable_by_others_is_not_used(
    spoil: Spoil, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernels are compiled in a private folder, a warning gives a remedy, and the planted library never runs."""
    trace = plant(cache)
    spoil(cache, monkeypatch)
    loaded, logged = load(capsys)
    assert works(loaded) and logged.count("\n") == 1
    assert reason.format(kernels=cache / "kernels", cache=cache) in logged
    assert "The CPU kernels are compiled only for this process." in logged
    assert not trace.exists()
    assert "separately in each process: the kernel cache is not private" in loading.status() and not trace.exists()
    forget()


def plant(cache: Path) -> Path:
    """Install other code with a correct digest as the library; return the file that this code creates when it runs."""
    trace = cache.parent / "trace"
    building.require_cache()
    path = building.object_path(DTYPE)
    library_with(trace, path)
    assert not trace.exists()
    ctypes.CDLL(str(path))
    trace.unlink()  # the planted code has run
    copied = path.read_bytes()
    path.unlink()
    path.write_bytes(copied)  # a new inode, which the loader has not loaded yet
    path.chmod(0o700)
    return trace


def library_with(trace: Path, path: Path) -> None:
    source = path.with_suffix(".c")
    source.write_text(OTHERS_CODE.format(trace=trace))
    subprocess.run([*building.compiler(), "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    source.unlink()
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())


@pytest.mark.parametrize(
    "kind",
    [pytest.param("of another user", marks=pytest.mark.needs("chown")), "open to all", "a link", "a pipe", "a folder"],
)
def test_library_writable_by_others_is_rebuilt(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = plant(cache)
    path = building.object_path(DTYPE)
    if kind == "of another user":
        os.chown(path, 12345, 12345)
    elif kind == "open to all":
        path.chmod(0o666)
    elif kind == "a link":
        path.rename(cache / "elsewhere.so")
        path.symlink_to(cache / "elsewhere.so")
    else:
        path.unlink()
        os.mkfifo(path) if kind == "a pipe" else path.mkdir()
    loaded, logged = load(capsys)
    if kind != "a folder":  # a file cannot replace a folder
        assert "compiling the CPU kernels again" in logged and path.is_file() and not path.is_symlink()
        assert load(capsys)[1] == ""
    assert works(loaded) and not trace.exists()


def test_checked_file_is_loaded_even_if_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert works(load(capsys)[0])
    path, trace, original = building.object_path(DTYPE), cache.parent / "trace", ctypes.CDLL

    def swapped(name: str) -> ctypes.CDLL:
        library_with(trace, cache / "evil.so")
        os.replace(cache / "evil.so", path)
        return original(name)

    monkeypatch.setattr(ctypes, "CDLL", swapped)
    loaded, logged = load(capsys)
    assert works(loaded) and not trace.exists() and logged == ""
    original(str(path))
    assert trace.exists()  # the path had really been replaced


def test_two_libraries_are_never_confused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dynamic linker identifies a library by its path. Here, the path contains the number of a descriptor."""
    first = load(capsys)[0]
    assert first is not None
    spare = os.open("/dev/null", os.O_RDONLY)  # the next descriptor gets this number
    os.close(spare)
    building.object_path(DTYPE).unlink()
    second = load(capsys)[0]
    assert second is not None and second._library._handle != first._library._handle
    assert works(first) and works(second)


def test_cache_on_noexec_disk(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = os.statvfs

    def noexec(path: Path) -> os.statvfs_result:
        found = real(path)
        return os.statvfs_result((*found[:8], found.f_flag | os.ST_NOEXEC, found.f_namemax))

    monkeypatch.setattr(os, "statvfs", noexec)
    loaded, logged = load(capsys)
    assert works(loaded) and logged.count("\n") == 1
    assert f"the disk of {cache / 'kernels'} does not allow executing files (noexec): set IMDBCLS_CACHE" in logged
    assert list((cache / "kernels").iterdir()) == [] and "noexec" in loading.status()


@pytest.mark.parametrize("kind", ["a file", "below a file", "full"])
def test_unwritable_cache(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "a file":
        cache.mkdir()
        (cache / "kernels").write_text("")
    elif kind == "below a file":
        cache.write_text("")
    else:
        real = os.replace

        def full(source: Path, target: Path) -> None:
            if Path(target).is_relative_to(cache):
                raise OSError(28, "No space left on device", str(target))
            real(source, target)

        monkeypatch.setattr(os, "replace", full)
    loaded, logged = load(capsys)
    assert works(loaded) and logged.count("\n") == 1 and "set IMDBCLS_CACHE to a" in logged
    assert "The CPU kernels are compiled only for this process." in logged


def test_private_group_of_user_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with umask 002 give each user a private group; a group with other members is a risk."""
    import grp
    import pwd

    class User:
        pw_name, pw_gid = "ada", 4711

    class Group:
        gr_name, gr_gid, gr_mem = "ada", 4711, ["ada"]

    monkeypatch.setattr(pwd, "getpwuid", lambda uid: User)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: Group)
    tmp_path.chmod(0o770)
    assert ownership.risk_of_folder(tmp_path) is None
    tmp_path.chmod(0o772)
    assert "other users can write" in str(ownership.risk_of_folder(tmp_path))
    tmp_path.chmod(0o770)
    for name, value in (("gr_mem", ["ada", "eve"]), ("gr_name", "staff"), ("gr_gid", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(Group, name, value)
            assert "other users can write" in str(ownership.risk_of_folder(tmp_path)), name


def test_compiler_with_relative_path(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiler runs in a temporary folder, where the relative path does not exist."""
    script(tmp_path / "mine", 'exec cc "$@"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "./mine -fno-plt")
    assert works(load(capsys)[0])
