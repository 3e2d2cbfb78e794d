"""The tracker with real W&B logs, real processes, and servers that are missing, silent or killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_wandb import KEY, FakeWandb
from support.limits import HANG_SECONDS
from support.processes import EVERY_STEP, TINY, saved_step, start, wait_for
from support.runs import ROOT
from support.trackers import NAME, end, helpers, logs, no_helper_runs, records, steps, summary, tracker, train

from imdbcls.errors import UserError
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import environment, session
from imdbcls.tracking.once import once


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's W&B key, settings and server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.chdir(tmp_path)


def test_offline_log_contains_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with tracker() as run:
        train(run)
        end(run)
    output = capfd.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "wandb sync runs/first/wandb" in output.err and "wandb leet runs/first/wandb" in output.err

    (log,) = logs()
    shown = summary(log)
    assert (shown["state"], shown["exit_code"]) == ("finished", 0)
    token = Path("runs/first/wandb/study.id").read_text()
    assert (shown["run_id"], shown["name"], shown["project"]) == (f"{NAME}-{token}", NAME, "imdbcls")
    assert shown["tags"] == ["lstm", "minilm", "imdb"]
    assert shown["config"] == {"lr": 3e-5, "head": {"bidirectional": False}, "group_hash": "abcd1234"}
    (opened,) = records(log, "run")
    assert (opened["run_group"], opened["job_type"]) == ("first", "train")

    numbers = shown["summary"]
    assert (numbers["status"], numbers["val/accuracy"], numbers["test/accuracy"]) == ("done", 0.81, 0.75)
    assert "train/loss" not in numbers and "val/loss" not in numbers
    assert numbers["test/recall/positive"] == 0.5 and numbers["test/precision/positive"] == 1.0
    assert numbers["view/test_mistakes"]["nrows"] == 1

    assert steps(log) == list(range(1, 21))
    points = [record["item"] for record in records(log, "history")]
    assert all(point["_step"] == point["step"] for point in points)
    assert points[9]["train/loss"] == 0.1 and points[9]["val/accuracy"] == 0.81
    axes = {record.get("glob_name"): record.get("step_metric") for record in records(log, "metric")}
    assert axes["train/*"] == axes["val/*"] == "step"


def test_tables_are_in_the_study_folder_not_in_the_home_folder() -> None:
    with tracker() as run:
        end(run)
    (log,) = logs()
    mistakes = next(log.parent.glob("files/media/table/view/test_mistakes*"))
    assert json.loads(mistakes.read_text())["data"] == [["t7", "Not bad.", "positive", "negative", 0.99]]
    confusion = next(log.parent.glob("files/media/table/view/test_confusion_matrix*"))
    assert sorted(json.loads(confusion.read_text())["data"])[0] == ["negative", "negative", 2]
    staged = [
        entry["local_path"] for artifact in records(log, "artifact") for entry in artifact["manifest"]["contents"]
    ]
    assert staged and all(Path(path).is_relative_to(Path.cwd() / "runs") for path in staged)
    assert not [path for path in Path("home").rglob("*") if path.is_file() and "log" not in path.name]
    assert not [name for name in os.environ if name.startswith("WANDB_")]
    assert no_helper_runs()


def test_many_classes_have_a_table_of_confusions_instead_of_a_matrix(capfd: pytest.CaptureFixture[str]) -> None:
    names = [f"class {number}" for number in range(120)]
    labels, predictions = [*range(120), 7, 7, 119], [*range(119), 3, 5, 5, 3]
    for num_classes, expected in (
        (100, {"view/test_confusion_matrix_table": 10_000}),
        (120, {"view/test_confusions": 2}),
    ):
        with tracker(f"cls-s0-{num_classes}", mode="offline") as run:
            pairs = [each for each in zip(labels, predictions, strict=True) if max(each) < num_classes]
            run.log_test(*zip(*pairs, strict=True), names[:num_classes], [])
        (log,) = logs(name=f"cls-s0-{num_classes}")
        logged = summary(log)["summary"]
        assert {key: logged[key]["nrows"] for key in logged if key.startswith("view/test_conf")} == expected
        assert ("confusion matrix of" in capfd.readouterr().err) == (num_classes == 120)
    (confusions,) = log.parent.glob("files/media/table/view/test_confusions*")
    table = json.loads(confusions.read_text())
    assert table["columns"] == ["label", "prediction", "documents"]
    assert table["data"] == [["class 7", "class 5", 2], ["class 119", "class 3", 2]]


def test_a_crash_is_recorded_as_failed() -> None:
    with pytest.raises(ZeroDivisionError), tracker() as run:
        train(run, last=3)
        raise ZeroDivisionError
    shown = summary(logs()[0])
    assert (shown["state"], shown["exit_code"], shown["step"]) == ("failed", 1, 3)


def test_an_interruption_is_recorded() -> None:
    with pytest.raises(Interrupted), tracker() as run:
        train(run, last=3)
        raise Interrupted(signal.SIGTERM)
    assert summary(logs()[0])["exit_code"] == 1
    assert records(logs()[0], "preempting") == [{}]


@pytest.mark.slow
def test_an_interrupted_training_command_records_the_interruption(tmp_path: Path) -> None:
    offline = ("tracker=wandb", "tracker.mode=offline")
    command = start(tmp_path, *TINY, EVERY_STEP, "epochs=200", *offline)
    assert wait_for(lambda: saved_step(tmp_path) >= 3, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    (log,) = tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb")
    assert summary(log)["exit_code"] == 1
    assert records(log, "preempting") == [{}]


def test_two_runs_in_one_process_are_separate() -> None:
    for name in ("cls-s0-1", "max-s0-1"):
        with tracker(name) as run:
            train(run, last=5)
    assert [len(logs(name=name)) for name in ("cls-s0-1", "max-s0-1")] == [1, 1]
    assert steps(logs(name="max-s0-1")[0]) == [1, 2, 3, 4, 5]
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", "runs/first/wandb"], capture_output=True, text=True
    )
    assert "Would sync 2 run(s)" in shown.stdout + shown.stderr


def in_process(body: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that imports `support.trackers`, but not PyTorch, and runs the code in `body`."""
    places = [str(ROOT), str(ROOT / "tests")]
    imports = "import signal\nfrom pathlib import Path\nfrom support.trackers import *\n"
    imports += "from imdbcls.runtime.signals import Interrupted\nfrom imdbcls.tracking import Trackers\n"
    script = f"import sys; sys.path[:0] = {places}\n{imports}{body}"
    environment = {**os.environ, **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=pipe, stderr=pipe, text=True)


def test_once_runs_in_one_process_and_again_after_a_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    marker = Path("runs/first/wandb/data-abcd.logged")
    with once(marker) as mine, once(marker) as another_s:
        assert mine and not another_s
    with once(marker) as again:
        assert not again
    marker.unlink()

    def damaged() -> dict[str, Any]:
        raise OSError("the cache is gone")

    with tracker() as run:
        run.log_data("abcd", {"train": 12}, damaged)
        run.log_data("abcd", {"train": 12}, lambda: {"sizes": (["split", "train"], [["documents", "12"]])})
        run.log_data("abcd", {"train": 12}, damaged)
        train(run, last=3)
    warnings = [line for line in capfd.readouterr().err.splitlines() if "data card" in line]
    assert len(warnings) == 1 and "the cache is gone" in warnings[0]
    (log,) = logs()
    assert steps(log) == [0, 1, 2, 3], "the data card is logged before the steps and does not shift them"
    (sizes,) = log.parent.glob("files/media/table/view/data_sizes*")
    assert json.loads(sizes.read_text())["data"] == [["documents", "12"]]


@pytest.mark.slow
def test_each_forked_job_opens_its_own_run() -> None:
    body = """
import multiprocessing, torch
def job(name):
    with tracker(name) as run:
        train(run, last=5)
assert "wandb" not in sys.modules
jobs = [multiprocessing.get_context("fork").Process(target=job, args=(name,)) for name in ("cls-s0-1", "max-s0-1")]
for each in jobs: each.start()
for each in jobs: each.join()
assert [each.exitcode for each in jobs] == [0, 0]
"""
    process = in_process(body)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    for name in ("cls-s0-1", "max-s0-1"):
        assert summary(logs(name=name)[0])["state"] == "finished"


@pytest.mark.slow
def test_killed_run_resumes_without_sending_steps_twice() -> None:
    process = in_process("with tracker() as run:\n    train(run, 1, 400, pause=0.02)\n    time.sleep(3600)")
    limit = time.monotonic() + HANG_SECONDS
    while logged_step() <= 10:
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.5)
    process.kill()
    process.communicate()
    time.sleep(1.1)  # W&B's folder names have a resolution of one second
    with tracker(resumed_step=10) as run:
        train(run, 11, 400)
    before, after = (steps(log) for log in logs())
    assert len(before) > 10
    assert before + after == list(range(1, 401))


def test_only_logs_since_the_last_start_are_continued() -> None:
    """A finished run whose folder was moved away, or a run without a checkpoint, starts from the beginning."""
    starts = ((None, 1, 20), (None, 1, 15), (None, 1, 10), (8, 9, 12), (12, 13, 20))
    for resumed_step, first, last in starts:
        with tracker(mode="offline", resumed_step=resumed_step) as run:
            train(run, first, last)
        time.sleep(1.1)  # W&B's folder names have a resolution of one second
    expected = [range(1, 21), range(1, 16), range(1, 11), range(11, 13), range(13, 21)]
    assert [steps(log) for log in logs()] == [list(each) for each in expected]


def logged_step() -> int:
    """Return the last step in the only log, or 0 if there is none yet."""
    try:
        return sum(summary(log)["step"] or 0 for log in logs())
    except (subprocess.CalledProcessError, ValueError, KeyError):  # the log is being created
        return 0


def test_disabled_does_not_import_wandb() -> None:
    body = """
for run in (tracker(mode="disabled"), Trackers()):
    with run:
        train(run, last=10)
        end(run)
    try:
        with run:
            raise Interrupted(signal.SIGTERM)
    except Interrupted:
        pass
assert "wandb" not in sys.modules and not Path("runs").exists()
"""
    process = in_process(body)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, errors) == (0, "")


def test_early_import_starts_no_thread_and_saves_jobs_the_import() -> None:
    """A sweep forks after the import. A forked job lacks the parent's threads, but locks that they held stay locked."""
    body = """
import os, threading
from imdbcls.tracking import import_early
from imdbcls.config.schema import TrackerConfig
shared = {"mode": "offline", "project": None, "entity": None, "tags": [], "notes": None}
wandb = {"_target_": "imdbcls.tracking.wandb.WandbTracker", "_partial_": True}
for none in (shared, shared | {"mode": "disabled", "wandb": wandb}):
    import_early(TrackerConfig.model_validate(none))
    assert "wandb" not in sys.modules
import_early(TrackerConfig.model_validate(shared | {"wandb": wandb}))
assert "wandb" in sys.modules and threading.active_count() == 1
before = set(sys.modules)
child = os.fork()
if child == 0:
    with tracker() as run:
        train(run, last=5)
        end(run)
    late = {name for name in set(sys.modules) - before if name.startswith("wandb")}
    os._exit(len(late))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 10
"""
    process = in_process(body)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    assert summary(logs()[0])["state"] == "finished"


def test_every_tracker_yaml_fits_its_class() -> None:
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf/tracker").glob("*.yaml")}
    assert found.pop("none") is None
    for name, sections in found.items():
        assert list(sections) == [name]
        assert sections[name]["_target_"] == f"imdbcls.tracking.{name}.{name.capitalize()}Tracker"
    options = {key: value for key, value in found["wandb"]["wandb"].items() if not key.startswith("_")}
    tracker(**options)


def test_online_needs_a_key() -> None:
    with pytest.raises(UserError, match=r"no key is configured\. Run `wandb login`"), tracker(mode="online"):
        pass
    assert not [name for name in os.environ if name.startswith("WANDB_")]


def test_malformed_key_logs_offline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    with tracker() as run:
        train(run)
    (line,) = capfd.readouterr().err.splitlines()
    assert "WANDB_API_KEY invalid" in line and "offline" in line
    assert steps(logs()[0]) == list(range(1, 21))


@pytest.fixture
def netrc_key(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that configures a key for a server, as `wandb login` does."""

    def configure(url: str) -> None:
        netrc = Path.home() / ".netrc"
        netrc.write_text(f"machine {url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("WANDB_BASE_URL", url)

    return configure


@pytest.fixture
def silent_port() -> Iterator[socket.socket]:
    """Start a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize(("mode", "variable"), [("offline", "online"), ("auto", "dryrun")])
def test_offline_mode_contacts_no_server(
    mode: str,
    variable: str,
    silent_port: socket.socket,
    netrc_key: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc_key(f"http://127.0.0.1:{silent_port.getsockname()[1]}")
    monkeypatch.setenv("WANDB_MODE", variable)
    with tracker(mode=mode, connect_seconds=2) as run:
        train(run)
        end(run)
    silent_port.settimeout(0.5)
    with pytest.raises(TimeoutError):
        silent_port.accept()


def test_configured_key_logs_online(
    serve: Callable[..., FakeWandb], netrc_key: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    netrc_key(server.url)
    with tracker() as run:
        train(run)
        run.finish({"status": "done"}, Path("runs/first") / NAME)
    assert server.steps() == list(range(1, 21))
    token = Path("runs/first/wandb/study.id").read_text()
    assert capfd.readouterr().err == f"W&B: {server.url}/someone/imdbcls/runs/{NAME}-{token}\n"
    assert len(logs("run")) == 1 and logs() == []


def test_steps_on_the_server_are_not_sent_again(
    serve: Callable[..., FakeWandb], netrc_key: Callable[[str], None]
) -> None:
    server = serve(known_step=12)
    netrc_key(server.url)
    with tracker(resumed_step=10) as run:
        train(run, 11, 20)
    assert server.steps() == list(range(1, 21))


def test_restarted_run_replaces_the_run_on_the_server(
    serve: Callable[..., FakeWandb], netrc_key: Callable[[str], None]
) -> None:
    server = serve(known_step=12)
    netrc_key(server.url)
    with tracker() as run:
        train(run)
    assert server.steps() == list(range(1, 21))


def test_a_server_has_connect_seconds_to_answer(
    netrc_key: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(session, "is_reachable", lambda url, seconds: limits.append(seconds))
    netrc_key("http://127.0.0.1:9")
    with tracker(connect_seconds=30) as run:
        train(run, last=1)
    assert limits == [30]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "silent", "deaf"])
def test_unreachable_server_logs_offline(
    kind: str,
    silent_port: socket.socket,
    serve: Callable[..., FakeWandb],
    netrc_key: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    urls = {
        "closed": lambda: "http://127.0.0.1:9",
        "silent": lambda: f"http://127.0.0.1:{silent_port.getsockname()[1]}",
        "deaf": lambda: serve(is_deaf=True).url,
    }
    netrc_key(urls[kind]())
    began = time.monotonic()
    with tracker(connect_seconds=2) as run:
        train(run)
        end(run)
    assert time.monotonic() - began < 80, "wandb itself waits for 90 s"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: W&B: ") and "offline" in line and "wandb sync runs/first/wandb" in line
    assert steps(logs()[0]) == list(range(1, 21))
    assert logs("run") == []
    assert no_helper_runs()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blow", "resumed_step"), [(signal.SIGKILL, None), (signal.SIGSTOP, None), (signal.SIGSTOP, 5)]
)
def test_server_lost_during_a_run_costs_little_time(
    blow: signal.Signals,
    resumed_step: int | None,
    serve: Callable[..., FakeWandb],
    netrc_key: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = serve(known_step=resumed_step)
    netrc_key(server.url)
    first = 1 if resumed_step is None else resumed_step + 1
    with tracker(resumed_step=resumed_step, finish_seconds=2) as run:
        train(run, first, 10)
        server.process.send_signal(blow)
        began = time.monotonic()
        train(run, 11, 500)
        assert time.monotonic() - began < 60, "no step waits for the server"
        end(run)
    assert time.monotonic() - began < HANG_SECONDS / 2
    errors = capfd.readouterr().err
    (log,) = logs("run")
    assert f"wandb sync --include-online {log.parent}" in errors.splitlines()[-1]
    assert steps(log) == list(range(first, 501))
    assert no_helper_runs()


@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_for_a_silent_server(
    serve: Callable[..., FakeWandb], netrc_key: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """The sender of the signal may kill the process soon."""
    server = serve()
    netrc_key(server.url)
    with pytest.raises(Interrupted), tracker() as run:
        train(run, 1, 10)
        server.process.send_signal(signal.SIGSTOP)
        train(run, 11, 20)
        began = time.monotonic()
        raise Interrupted(signal.SIGTERM)
    assert time.monotonic() - began < HANG_SECONDS / 2
    (log,) = logs("run")
    assert f"wandb sync --include-online {log.parent}" in capfd.readouterr().err.splitlines()[-1]
    assert steps(log) == list(range(1, 21)) and records(log, "preempting") == [{}]
    assert no_helper_runs()


def test_dead_helper_is_reported_once_and_training_continues(capfd: pytest.CaptureFixture[str]) -> None:
    with tracker(finish_seconds=2) as run:
        train(run, last=5)
        for helper in helpers():
            os.kill(int(helper), signal.SIGKILL)
        assert no_helper_runs()
        train(run, first=6)
        end(run)
    assert capfd.readouterr().err.count("the run continues") == 1


@pytest.mark.slow
def test_stuck_helper_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    body = """
with tracker(finish_seconds=2) as run:
    train(run, last=5)
    for helper in helpers():
        os.kill(int(helper), signal.SIGSTOP)
print("left")
"""
    process = in_process(body)
    output, _ = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, output) == (0, "left\n")


# Environment variables and ids


def opened(log: Path) -> dict[str, Any]:
    (record,) = records(log, "run")
    return record


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_logged", set())


def test_environment_overrides_defaults_and_ignored_variables_are_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    variables = {
        "WANDB_PROJECT": "mine",
        "WANDB_ENTITY": "me",
        "WANDB_TAGS": "paper, lstm,second try",
        "WANDB_NOTES": "On the old machine.",
        "WANDB_MODE": "offline",
        "WANDB_RUN_GROUP": "a group",
        "WANDB_NAME": "a name",
        "WANDB_JOB_TYPE": "a type",
        "WANDB_RUN_ID": "an-id",
        "WANDB_RESUME": "must",
        "WANDB_DIR": "elsewhere",
        "WANDB_SILENT": "false",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in (NAME, "cls-s0-5e6f7a8b"):
        with tracker(name, project=None, entity=None, tags=["baseline"]) as run:
            train(run, last=1)
    (log,) = logs()
    record = opened(log)
    assert (record["project"], record["entity"], record["notes"]) == ("mine", "me", "On the old machine.")
    assert sorted(record["tags"]) == sorted(["lstm", "minilm", "imdb", "baseline", "paper", "second try"])
    assert (record["run_group"], record["display_name"], record["job_type"]) == ("first", NAME, "train")
    assert record["run_id"].startswith(NAME)
    assert not Path("elsewhere").exists()
    warned = [line for line in capfd.readouterr().err.splitlines() if "ignoring" in line]
    assert len(warned) == 1  # once, not once per run
    for name in variables:
        used = name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS", "WANDB_NOTES", "WANDB_MODE")
        assert (f"{name} (" in warned[0]) != used, name
    assert {name: os.environ[name] for name in variables} == variables  # the variables are unchanged


def test_command_line_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PROJECT": "mine", "ENTITY": "me", "NOTES": "old", "MODE": "disabled"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with tracker(project="asked", entity="us", notes="new", mode="offline", tags="a,b") as run:
        train(run, last=1)
    record = opened(*logs())
    assert (record["project"], record["entity"], record["notes"]) == ("asked", "us", "new")
    assert {"a", "b"} <= set(record["tags"])
    assert "WANDB_MODE (tracker.mode=offline is set)" in capfd.readouterr().err


def test_an_old_name_of_the_chosen_mode_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chosen, other in (("dryrun", "offline", "online"), ("run", "online", "offline")):
        monkeypatch.setenv("WANDB_MODE", name)
        assert environment.ignored(chosen) is None
        assert environment.ignored(other) == f"W&B: ignoring WANDB_MODE (tracker.mode={other} is set)."
        monkeypatch.setattr(environment, "_logged", set())


def test_wandb_disabled_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with tracker() as run:
        train(run, last=1)
    assert not Path("runs").exists()


def test_wandb_sweep_keeps_its_id_project_and_entity(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = {"SWEEP_ID": "abc123", "RUN_ID": "q1w2e3r4", "PROJECT": "swept", "ENTITY": "team", "MODE": "offline"}
    for name, value in agent.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for resumed_step, last in ((None, 5), (5, 10)):  # the agent's run is killed and resumed
        with tracker(project="asked", resumed_step=resumed_step) as run:
            train(run, last=last)
    found = sorted(Path("runs/first/wandb").glob("offline-run-*/run-q1w2e3r4.wandb"))
    assert len(found) == 2
    record = opened(found[0])
    assert (record["run_id"], record["project"], record["entity"]) == ("q1w2e3r4", "swept", "team")
    assert record["sweep_id"] == "abc123"
    assert [steps(log) for log in found] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert "gnoring" not in capfd.readouterr().err


def test_ids_depend_on_study_folder_and_run(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "study", tmp_path / "b" / "study"
    with ThreadPoolExecutor(8) as jobs:  # several jobs create the token at the same time
        (first,) = set(jobs.map(lambda _: environment.run_id(one, NAME), range(32)))
    assert first.startswith(f"{NAME}-")
    assert environment.run_id(other, NAME) != first  # the same name in another folder
    assert environment.run_id(one, "cls-s0-00000000") != first
    assert environment.run_id(one.rename(tmp_path / "moved"), NAME) == first
    assert [path.name for path in (tmp_path / "moved/wandb").iterdir()] == ["study.id"]


def test_ids_are_valid_for_wandb(tmp_path: Path) -> None:
    import wandb

    names = ["ä" * 300, "ä" * 301, "a/b:c", "a/b;c", "x" * 200 + "1", "x" * 200 + "2", " ", "#?%'"]
    ids = [environment.run_id(tmp_path, name) for name in names]
    assert len(set(ids)) == len(names)
    for each in ids:
        assert len(each) <= 128 and re.fullmatch(r"[A-Za-z0-9_.-]+", each)
        wandb.Settings(run_id=each)


def test_a_damaged_or_hostile_token_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "wandb" / "study.id"
    path.parent.mkdir()
    path.write_text("../../x")
    token = environment.study_token(tmp_path)
    assert re.fullmatch("[0-9a-f]{8}", token) and path.read_text() == token
    secret = tmp_path / "secret"
    secret.write_text("0123abcd")
    path.unlink()
    path.symlink_to(secret)
    assert environment.study_token(tmp_path) != "0123abcd" and not path.is_symlink()
    assert secret.read_text() == "0123abcd"
