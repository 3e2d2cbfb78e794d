"""Each message is logged once, to the place that the user's logging configuration sets."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support import terminals
from support.limits import HANG_SECONDS
from support.processes import run_module
from support.runs import ROOT, TINY

from imdbcls.runtime.console import columns_of

SMALL = (*TINY, "epochs=1", "tracker=none", "progress=none", "runs_dir=runs")
RESULT = "test accuracy"


def train(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run_module(folder, "imdbcls.train", *SMALL, *arguments, environment={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done


def test_messages_go_to_stderr_once_and_hydra_logging_replaces_that(tmp_path: Path) -> None:
    done = train(tmp_path, "seed=0")
    assert done.stdout == "" and done.stderr.count(RESULT) == 1 and "warning: " in done.stderr
    done = train(tmp_path, "seed=1", "hydra/job_logging=default")
    assert done.stdout.count(RESULT) == 1 and RESULT not in done.stderr
    assert (tmp_path / "train.log").read_text().count(RESULT) == 1
    done = train(tmp_path, "seed=2", "hydra/job_logging=disabled")
    assert RESULT not in done.stdout + done.stderr
    done = run_module(tmp_path, "imdbcls.train", "--info", "defaults", environment=dict(os.environ))
    assert "Defaults List" in done.stdout and done.stderr == ""


def test_log_level_is_read_from_the_environment(tmp_path: Path) -> None:
    done = train(tmp_path, IMDBCLS_LOG_LEVEL="warning")
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("warning: ") for line in lines)
    done = run_module(tmp_path, "imdbcls.doctor", environment={**os.environ, "IMDBCLS_LOG_LEVEL": "loud"})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "imdbcls: IMDBCLS_LOG_LEVEL=LOUD is not a log level: use DEBUG, INFO, WARNING or ERROR.\n"


NOTEBOOK = """
import logging
from imdbcls.runtime.console import log_if_unconfigured
logger = logging.getLogger("imdbcls.somewhere")
logger.info("one"); logger.warning("two")
log_if_unconfigured(); log_if_unconfigured()
logger.info("three"); logger.warning("[bold]four")
logging.basicConfig(level="ERROR", format="mine: %(message)s")
logger.error("five")
"""


def test_python_shows_messages_until_the_user_configures_logging() -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{NOTEBOOK}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["two", "three", "warning: [bold]four", "mine: five"] and done.stdout == ""


SIGNAL = """
import logging, os, signal, sys
from imdbcls.runtime.console import log_to_stderr
log_to_stderr()
logger = logging.getLogger("imdbcls.somewhere")
signal.signal(signal.SIGALRM, lambda *_: logger.info("from the handler"))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for number in range(3000):
    logger.info("line %d " + "x" * 200, number)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("closed", [False, True])
def test_messages_of_signal_handlers_and_a_closed_stderr_are_safe(closed: bool) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SIGNAL}"
    redirect = "2>&-" if closed else ""
    command = ["bash", "-c", f'exec "$@" {redirect}', "script", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    if not closed:
        assert "from the handler" in done.stderr and done.stderr.count("line ") == 3000


WRAPPED = """
import logging
from imdbcls.runtime.console import log_to_stderr
log_to_stderr()
logger = logging.getLogger("imdbcls.somewhere")
logger.info("  " + "word " * 12 + "runs/" + "x" * 50)
logger.warning("word " * 12 + "then python -m imdbcls.compare runs/heads")
try:
    raise ValueError("word " * 12)
except ValueError:
    logger.critical("unexpected error", exc_info=True)
"""


def test_messages_on_a_terminal_are_wrapped_at_spaces_and_tracebacks_are_not() -> None:
    output = terminals.on_terminal([sys.executable, "-c", WRAPPED], 40, NO_COLOR="1").replace("\r\n", "\n")
    assert output.startswith(f"""\
  word word word word word word word
    word word word word word
    runs/{"x" * 50}
warning: word word word word word word
  word word word word word word then
  python -m imdbcls.compare runs/heads
""")
    assert f"ValueError: {'word ' * 12}" in output


def test_a_terminal_that_does_not_know_its_width_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()  # reports a width of 0
    with open(theirs, "w") as stream:
        assert columns_of(stream) == 80
    os.close(ours)
