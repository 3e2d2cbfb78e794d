"""A pytest plugin that checks what tests need besides packages, and which tests may be skipped.

`@pytest.mark.needs("imdb")` deselects a test if the corpus is missing. With `--ci`, the test runs and fails instead,
and the session fails if a test is skipped for any reason other than missing hardware (`support.hardware`).
"""

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from support import slurm
from support.browser import find_chromium
from support.privileges import CHOWN, SYS_ADMIN, has_capability
from support.runs import SHARED

# Name → a function that returns whether the requirement is met, and its description.
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "chromium": (lambda: find_chromium() is not None, "Chromium on the PATH"),
    "pdflatex": (lambda: shutil.which("pdflatex") is not None, "pdflatex on the PATH, with the package booktabs"),
    "imdb": ((SHARED / "imdb").is_dir, f"IMDB as Parquet in {SHARED / 'imdb'}"),
    "roberta-base": ((SHARED / "roberta-base").is_dir, f"RoBERTa's tokenizer in {SHARED / 'roberta-base'}"),
    "chown": (partial(has_capability, CHOWN), "the right to give files away (root)"),
    "slurm": (slurm.is_installed, "slurm-wlm and munge, as root"),
    "mount": (partial(has_capability, SYS_ADMIN), "the right to mount a file system (root)"),
}
MARKER = "needs(*names): what the test needs besides the packages (tests/support/requirements.py)"
# Requirements of deselected tests, in this process and in the workers of pytest-xdist.
LEFT_OUT = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ci", action="store_true", help="fail for missing requirements, except hardware")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    config.stash[LEFT_OUT] = set()


def missing(item: pytest.Item) -> list[str]:
    """Return the requirements of a test that this machine does not meet."""
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    return [name for name in names if not NEEDS[name][0]()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--ci"):
        return
    deselected = {item: names for item in items if (names := missing(item))}
    items[:] = [item for item in items if item not in deselected]
    if deselected:
        config.stash[LEFT_OUT].update(*deselected.values())
        config.hook.pytest_deselected(items=list(deselected))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if names := missing(item):
        pytest.fail("this test needs " + ", ".join(NEEDS[name][1] for name in names), pytrace=False)


def unexpected_skips(config: pytest.Config) -> list[str]:
    """Return the locations of tests that were skipped for a reason other than missing hardware."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # in a worker of pytest-xdist
        return []
    from support.hardware import REASONS  # imported late because it imports torch

    found = set()
    for report in reporter.stats.get("skipped", []):
        path, line, reason = report.longrepr
        if reason.removeprefix("Skipped: ") not in REASONS:
            found.add(f"{report.nodeid or path}: {reason} ({path}:{line})")
    return sorted(found)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = sorted(session.config.stash[LEFT_OUT])
    if (
        session.config.getoption("--ci")
        and session.exitstatus == pytest.ExitCode.OK
        and unexpected_skips(session.config)
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the missing requirements from a worker of pytest-xdist."""
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--ci"):
        for skip in unexpected_skips(config):
            terminalreporter.write_line(f"Skipped, but not for missing hardware: {skip}", red=True)
    elif left_out := config.stash[LEFT_OUT]:
        needed = "; ".join(NEEDS[name][1] for name in sorted(left_out))
        terminalreporter.write_line(f"Deselected tests with missing requirements: {needed}.")
