"""Output that cannot be written: a broken pipe, a full disk, closed streams, ASCII, a closed terminal."""

import json
import os
import pty
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.processes import context
from support.runs import TINY

from imdbcls.errors import UserError
from imdbcls.runtime import entry

CLOSED, NO_READER = "closed", "a pipe whose reader has closed it"
ONE_RUN = (*TINY, "epochs=1", "tracker=none", "progress=none")


def _command(module: str, arguments: Sequence[str], folder: str, paths: Sequence[str], encoding: str) -> None:
    """Run a command as `python -m` does. Each path names a file for a standard stream, or is CLOSED or NO_READER."""
    os.chdir(folder)
    read, write = os.pipe()
    os.close(read)
    opened = [write if path in (CLOSED, NO_READER) else os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    for descriptor, file in enumerate(opened):
        os.dup2(file, descriptor)
    for descriptor, path in enumerate(paths):
        if path == CLOSED:
            os.close(descriptor)
    names = ("stdin", "stdout", "stderr")
    for descriptor, (name, path) in enumerate(zip(names, paths, strict=True)):
        mode = "r" if name == "stdin" else "w"
        stream = None if path == CLOSED else open(descriptor, mode, encoding=encoding, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    sys.argv = [module, *arguments]
    warnings.filterwarnings("ignore", message=".*found in sys.modules")  # the fork server has imported the module
    runpy.run_module(module, run_name="__main__")


def run(
    folder: Path,
    module: str,
    *arguments: str,
    stdin: str = os.devnull,
    stdout: str | None = None,
    stderr: str | None = None,
    encoding: str = "utf-8",
) -> tuple[int, str, str]:
    """Return the exit code of a command, its stdout and its stderr."""
    answers, log = folder / "stdout.txt", folder / "stderr.txt"
    for file in (answers, log):
        file.unlink(missing_ok=True)
    streams = [stdin, str(answers) if stdout is None else stdout, str(log) if stderr is None else stderr]
    process = context.Process(target=_command, args=(f"imdbcls.{module}", arguments, str(folder), streams, encoding))
    process.start()
    process.join(HANG_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{module} did not end")
    return process.exitcode, *(file.read_text() if file.exists() else "" for file in (answers, log))


@pytest.fixture(autouse=True)
def without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


def answering(finished: Path) -> dict[str, tuple[str, ...]]:
    """Return commands that write their output to stdout."""
    return {
        "train help": ("train", "--help"),
        "train cfg": ("train", *TINY, "--cfg", "job"),
        "train info": ("train", *TINY, "--info"),
        "train hydra help": ("train", "--hydra-help"),
        "data": ("data", "data=sample", "backbone=tiny"),
        "doctor": ("doctor",),
        "predict": ("predict", str(finished), "A quiet, patient film."),
        "predict csv": ("predict", str(finished), "--format", "csv", "A quiet, patient film."),
        "evaluate": ("evaluate", str(finished), "--trust-source"),
        "compare": ("compare", str(finished.parent), "--output", "compared"),
    }


COMMANDS = tuple(answering(Path()))


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_for_stdout_gives_one_sentence(name: str, finished: Path, tmp_path: Path) -> None:
    code, _, messages = run(tmp_path, *answering(finished)[name], stdout="/dev/full")
    assert code == 2, messages
    assert messages.count("Writing to stdout failed: No space left on device") == 1
    assert "Traceback" not in messages and "Exception ignored" not in messages
    if name == "compare":  # its files are nevertheless written
        assert json.loads((tmp_path / "compared/comparison.json").read_text())["groups"]


@pytest.mark.parametrize("name", ["train help", "train cfg", "predict", "evaluate", "compare"])
def test_closed_stdout_gives_one_sentence(name: str, finished: Path, tmp_path: Path) -> None:
    code, _, messages = run(tmp_path, *answering(finished)[name], stdout=CLOSED)
    assert code == 2, messages
    assert messages.count("Writing to stdout failed: stdout is closed") == 1 and "Traceback" not in messages


@pytest.mark.parametrize("name", ["train help", "train cfg", "data", "doctor", "predict", "evaluate", "compare"])
def test_broken_pipe_ends_a_command_silently(name: str, finished: Path, tmp_path: Path) -> None:
    code, _, messages = run(tmp_path, *answering(finished)[name], stdout=NO_READER)
    assert code == 128 + signal.SIGPIPE, messages
    allowed = (f"{finished}: loading", "warning: the page shows no texts", "The metrics equal the recorded ones")
    assert not [line for line in messages.splitlines() if not line.startswith(allowed)], messages


@pytest.mark.parametrize("name", ["train help", "data", "doctor", "predict", "evaluate", "compare"])
def test_ascii_streams_accept_every_output(name: str, finished: Path, tmp_path: Path) -> None:
    code, answer, messages = run(tmp_path, *answering(finished)[name], encoding="ascii")
    assert code == 0, messages
    assert answer.isascii() and messages.isascii() and answer.strip()
    if name == "compare":
        assert "-----" in answer and "\\u2500" not in answer


def test_json_lines_stay_json_in_ascii(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    result = json.loads((copy / "result.json").read_text())
    result["label_names"] = ["négatif", "😀"]
    (copy / "result.json").write_text(json.dumps(result))
    for encoding in ("ascii", "utf-8"):
        code, answer, messages = run(tmp_path, "predict", str(copy), "A film.", encoding=encoding)
        assert code == 0, messages
        assert sorted(json.loads(answer)["probabilities"]) == ["négatif", "😀"]
        assert answer.isascii() == (encoding == "ascii")


@pytest.mark.parametrize("lost", ["stderr closed", "stderr full", "stderr unread", "stdout closed", "terminal gone"])
def test_training_continues_after_its_streams_close(lost: str, tmp_path: Path) -> None:
    stream, how = lost.split()
    places = {"closed": CLOSED, "full": "/dev/full", "unread": NO_READER}
    if how == "gone":
        controller, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", HANGUP, os.ttyname(terminal), *ONE_RUN], cwd=tmp_path, start_new_session=True
        ) as process:
            assert os.read(controller, 1) == b"x"
            os.close(terminal)
            os.close(controller)  # closes the terminal: every later write to it fails with EIO
            assert process.wait(HANG_SECONDS) == 0
    elif stream == "stderr":
        code, _, messages = run(tmp_path, "train", *ONE_RUN, stderr=places[how])
        assert code == 0, code
    else:
        code, _, messages = run(tmp_path, "train", *ONE_RUN, stdout=places[how])
        assert code == 0 and "Traceback" not in messages, messages
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "done"


HANGUP = """
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # like nohup
terminal = os.open(sys.argv[1], os.O_RDWR)
os.dup2(terminal, 1), os.dup2(terminal, 2)
sys.argv = ["train", *sys.argv[2:], "progress=live"]
os.write(2, b"x")
runpy.run_module("imdbcls.train", run_name="__main__")
"""


def test_sweep_with_broken_pipe_finishes_its_jobs(tmp_path: Path) -> None:
    """A sweep writes to stdout only if Hydra logs there. Failed jobs give the exit code 1, even with a broken pipe."""
    sweep = ("--multirun", "head=cls,mean", "jobs=2", "hydra/job_logging=stdout", *ONE_RUN)
    code, _, messages = run(tmp_path, "train", *sweep, stdout=NO_READER)
    assert code == 128 + signal.SIGPIPE and "Traceback" not in messages, messages
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == 2
    code, _, messages = run(tmp_path, "train", *sweep, "optimizer.betas=[2,2]", stdout=NO_READER)
    assert code == 1 and "Traceback" not in messages, messages
    answers = str(tmp_path / "answers.txt")
    code, _, messages = run(
        tmp_path, "train", *sweep, "optimizer.betas=[2,2]", "hydra/job_logging=none", stdout=answers
    )
    assert code == 1 and "2 of 2 runs are not done" in messages and Path(answers).read_text() == "", messages


def test_closed_stdin_gives_one_sentence(finished: Path, tmp_path: Path) -> None:
    code, answer, messages = run(tmp_path, "predict", str(finished), stdin=CLOSED)
    assert (code, answer) == (2, "") and "stdin cannot be read" in messages and "Traceback" not in messages


def test_closed_descriptor_is_not_reused_for_a_file(tmp_path: Path) -> None:
    """If descriptor 2 were reused, C code would write its stderr output to the first file that the program opens."""
    script = (
        "import os; from imdbcls.runtime import entry; entry.set_up_streams(); file = open('data', 'w'); "
        "os.write(2, b'a library: warning'); print('hidden', file=__import__('sys').stderr); file.close(); "
        "assert file and open('data').read() == ''"
    )
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" <&- 2>&-', sys.executable, script], cwd=tmp_path)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (UserError("lr is missing."), 2, "imdbcls: lr is missing."),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "not enough memory"),
        (SystemExit(7), 7, ""),
        (KeyError("a bug"), 1, "Traceback"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_code_of_a_command(
    raised: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(entry, "set_up_streams", lambda: None)

    def main() -> None:
        raise raised

    with pytest.raises((SystemExit, KeyError)) as ended:
        entry.run(main)
    final = ended.value
    if isinstance(final, KeyError):  # Python reports it with `sys.excepthook`
        with pytest.raises(SystemExit) as explained:
            entry._explain(KeyError, final, final.__traceback__)
        final = explained.value
    assert isinstance(final, SystemExit) and final.code == code
    assert words in capsys.readouterr().err


def test_full_disk_keeps_the_old_comparison_complete(finished: Path, tmp_path: Path) -> None:
    """The files of a comparison are replaced together: either all are new, or none."""
    study = tmp_path / "study"
    subprocess.run(["cp", "-r", str(finished.parent), str(study)], check=True)
    assert run(tmp_path, "compare", str(study))[0] == 0
    before = {path: path.read_bytes() for path in study.rglob("comparison*") if path.is_file()}
    sizes = sorted((len(content), path) for path, content in before.items())
    limit, (_, largest) = str(sizes[-2][0] + 1000), sizes[-1]  # enough for every file except the largest
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
        "sys.dont_write_bytecode = True; "  # Python would leave truncated .pyc files
        "sys.argv = ['compare', *sys.argv[2:]]; runpy.run_module('imdbcls.compare', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, limit, str(study), "--margin", "0.4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{largest} cannot be written (File too large). No file of the comparison was changed." in done.stderr
    assert {path: path.read_bytes() for path in study.rglob("comparison*") if path.is_file()} == before
    assert not list(study.rglob("*.tmp"))

    # The first file is a folder: it would be the last one to be replaced.
    (study / "comparison.json").unlink()
    (study / "comparison.json").mkdir()
    code, _, messages = run(tmp_path, "compare", str(study), "--margin", "0.4")
    assert code == 2 and "comparison.json cannot be written (Is a directory). No file of the comparison" in messages
    kept = {path: content for path, content in before.items() if path.name != "comparison.json"}
    assert {path: path.read_bytes() for path in study.rglob("comparison*") if path.is_file()} == kept
