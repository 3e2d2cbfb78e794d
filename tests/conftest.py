"""Fixtures for all tests: running commands in separate processes, and two finished runs."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.processes import run_module, share_kernels
from support.runs import PERSONAL, TINY, Launch

from imdbcls.kernels import building
from imdbcls.runtime.console import StderrHandler
from imdbcls.runtime.process import fix_sums

pytest_plugins = ["support.fake_wandb.fixtures", "support.requirements"]

# MKL reads these settings at its first product. Without them, tests would not compute the same results as commands.
fix_sums()
# On a busy machine, compiling the kernels may take longer than the limit for a compiler that hangs.
building._BUILD_SECONDS = building._VERSION_SECONDS = HANG_SECONDS
# Several tests run in parallel (pyproject.toml), so each test process and each command that it starts uses one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def messages_on_stderr() -> Iterator[None]:
    """Write log messages to stderr, as commands do, even in tests that call functions directly."""
    package, root = logging.getLogger("imdbcls"), logging.getLogger()
    # Commands that ran in this process, in earlier tests or in fixtures, have added handlers.
    for logger in (package, root):
        logger.handlers[:] = [handler for handler in logger.handlers if not isinstance(handler, StderrHandler)]
    # Libraries that ran in earlier tests have added handlers for the captured stderr, which is closed now.
    root.handlers[:] = [each for each in root.handlers if not getattr(getattr(each, "stream", None), "closed", False)]
    handler = StderrHandler()
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    yield
    package.removeHandler(handler)


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Return a function that runs `python -m imdbcls.<module> <arguments>` in a folder, without the user's settings.

    Keyword arguments are environment variables. The exit code must be `expect`. `fresh` starts a new interpreter
    (`support.processes.run_module`).
    """
    home = tmp_path_factory.mktemp("home")

    def run(
        folder: Path, module: str, *arguments: str, expect: int = 0, fresh: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
        isolated = {"HOME": str(home), "IMDBCLS_CACHE": str(home / "cache")}
        share_kernels(home / "cache")
        variables = kept | isolated | environment
        done = run_module(folder, f"imdbcls.{module}", *arguments, environment=variables, fresh=fresh)
        assert done.returncode == expect, f"exit code {done.returncode} instead of {expect}:\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def finished(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of `head=lstm` on TINY. Many tests share it: copy it to change files."""
    folder = tmp_path_factory.mktemp("finished")
    launch(folder, "train", "head=lstm", *TINY, "tracker=none", "runs_dir=runs", "study=demo")
    (run,) = (folder / "runs" / "demo").iterdir()
    return run


@pytest.fixture(scope="session")
def second(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of `head=weight_avg` on the same documents. Copy it to change files."""
    folder = tmp_path_factory.mktemp("second")
    launch(folder, "train", "head=weight_avg", *TINY, "epochs=1", "tracker=none", "runs_dir=runs", "study=other")
    (run,) = (folder / "runs" / "other").iterdir()
    return run
