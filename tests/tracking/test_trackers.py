"""No tracker, one or several trackers, a tracker that fails, and the tracker of the documentation."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from support.invented_run import end, log_data, train
from support.runs import ROOT, TINY, Launch

from imdbcls.errors import UserError
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import Tracker, Trackers


class Recorder(Tracker):
    """Records its calls, and raises an error in the methods that `failing` names."""

    def __init__(self, failing: Iterable[str] = (), error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._failing, self._error = set(failing), error or ValueError("server\non fire")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self._failing:
            raise self._error

    def __enter__(self) -> Self:
        self._called("enter")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._called(f"exit {kind.__name__ if kind else None}")

    @property
    def links(self) -> Mapping[str, str]:
        self._called("links")
        return {"recorder": "http://recorder"}

    def log_data(self, *_: Any) -> None:
        self._called("log_data")

    def log(self, point: Mapping[str, float | int]) -> None:
        self._called("log")

    def log_test(self, *_: Any) -> None:
        self._called("log_test")

    def finish(self, *_: Any) -> None:
        self._called("finish")


CALLS = ["enter", "log_data", "log", "log", "links", "log_test", "finish", "exit None"]


def run_with(trackers: Trackers) -> dict[str, str]:
    with trackers:
        log_data(trackers)
        train(trackers, (1, 2))
        links = dict(trackers.links)
        end(trackers)
    return links


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_trackers_nothing_is_called() -> None:
    assert run_with(Trackers()) == {}


def test_each_tracker_receives_every_call() -> None:
    one, other = Recorder(), Recorder()
    assert run_with(Trackers({"one": lambda: one, "other": lambda: other})) == {"recorder": "http://recorder"}
    assert one.calls == other.calls == CALLS


@pytest.mark.parametrize("failing", ["enter", "log_data", "log", "links", "log_test", "finish", "exit None"])
def test_a_failing_tracker_warns_once_and_disturbs_no_other(failing: str, capfd: pytest.CaptureFixture[str]) -> None:
    bad, good = Recorder({failing, "exit None"}), Recorder()
    run_with(Trackers({"bad": lambda: bad, "good": lambda: good}))
    assert good.calls == CALLS
    assert bad.calls == (["enter"] if failing == "enter" else CALLS)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: tracker.bad ") and line.endswith(
        "(server); the run continues and is recorded in its folder."
    )


def test_a_constructor_that_fails_is_no_error_of_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    good = Recorder()

    def construct() -> Tracker:
        raise RuntimeError

    run_with(Trackers({"bad": construct, "good": lambda: good}))
    assert good.calls == CALLS
    assert "tracker.bad cannot be started (RuntimeError)" in capfd.readouterr().err


def test_a_user_error_at_the_start_is_raised_after_the_others_are_closed() -> None:
    good, bad, never = Recorder(), Recorder({"enter"}, UserError("no key is configured")), Recorder()
    trackers = Trackers({"good": lambda: good, "bad": lambda: bad, "never": lambda: never})
    with pytest.raises(UserError, match="no key is configured"), trackers:
        pass
    assert good.calls == ["enter", "exit UserError"] and never.calls == []


def test_an_interruption_reaches_every_tracker_and_is_raised() -> None:
    bad, good = Recorder({"exit Interrupted"}), Recorder()
    with pytest.raises(Interrupted), Trackers({"bad": lambda: bad, "good": lambda: good}):
        raise Interrupted(15)
    assert good.calls == ["enter", "exit Interrupted"]


def example_of_the_documentation() -> tuple[str, str]:
    """Return the module and the YAML file in docs/pages/tracking.md."""
    text = (ROOT / "docs/pages/tracking.md").read_text(encoding="utf-8")
    section = text[text.index("## Your own tracker") :]
    module = section.partition("```python\n")[2].partition("```")[0]
    yaml = section.partition("```yaml\n")[2].partition("```")[0]
    return module, yaml


def test_the_tracker_of_the_documentation_works(tmp_path: Path, launch: Launch) -> None:
    module, yaml = example_of_the_documentation()
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text(module)
    (tmp_path / "my_conf/tracker").mkdir(parents=True)
    (tmp_path / "my_conf/tracker/csv.yaml").write_text(textwrap.dedent(yaml))
    command = ("train", *TINY, "epochs=1", "tracker=csv", "study=own", "--config-dir=my_conf", "plugins=[my_package]")
    launch(tmp_path, *command, "tracker.csv.separator=;")
    (written,) = (tmp_path / "runs/own").glob("*.csv")
    lines = written.read_text().splitlines()
    assert all(line.count(";") == 2 for line in lines)
    assert any(";val/accuracy;" in line for line in lines) and lines[-1].startswith("end;test/accuracy;")
