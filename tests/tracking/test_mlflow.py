"""MLflow runs, read back with MLflow's own client."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.invented_run import NAME, STUDY, end, log_data, options, point, rewind, train
from support.limits import HANG_SECONDS
from support.runs import TINY, Launch

from imdbcls.errors import UserError
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking.mlflow import MlflowTracker, describe_auto
from imdbcls.tracking.reasons import first_line, without_password

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def tracker(**changes: Any) -> MlflowTracker:
    defaults = {"mode": "auto", "tags": ["a", 2024], "notes": "first try", "connect_seconds": 5, "finish_seconds": 60}
    return MlflowTracker(**options(**defaults) | changes)


def local_uri() -> str:
    return f"sqlite:///{(STUDY / 'mlflow/mlflow.db').absolute()}"


def client(uri: str | None = None) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri or local_uri())


def runs(uri: str | None = None, project: str = "imdbcls") -> list[Any]:
    reader = client(uri)
    return reader.search_runs([reader.get_experiment_by_name(project).experiment_id])


def history(run: Any, name: str, uri: str | None = None) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client(uri).get_metric_history(run.info.run_id, name)]


def artifact(run: Any, path: str) -> Any:
    return json.loads(Path(client().download_artifacts(run.info.run_id, path)).read_text())


def test_a_run_has_its_params_metrics_tags_and_artifacts() -> None:
    with tracker() as logged:
        log_data(logged)
        train(logged, range(1, 21))
        end(logged)
    assert logged.links == {}
    (run,) = runs()
    assert (run.info.run_name, run.info.status) == (NAME, "FINISHED")
    assert run.data.params == {
        **{"lr": "3e-05", "head.name": "lstm", "head.bidirectional": "false", "data.train_limit": "null"},
        **{"plugins": "[]"},
    }
    for name in point(10):
        if name != "step":
            assert history(run, name) == [(step, point(step)[name]) for step in range(1, 21) if name in point(step)]
    assert history(run, "test/accuracy") == [(20, 0.75)] and history(run, "final/val/accuracy") == [(20, 0.81)]
    expected = {
        **{
            "study": "first",
            "job_type": "train",
            "tags": "lstm,minilm,imdb,a,2024",
            "mlflow.note.content": "first try",
        },
        **{"group_hash": "abcd1234", "git_commit": "0123abc", "command": "imdbcls train head=lstm"},
        **{"split_hash": "5911", "documents.train": "12", "mlflow.source.git.commit": "0123abc"},
    }
    assert expected.items() <= run.data.tags.items()
    assert artifact(run, "test/confusion_matrix.json")["data"] == [["negative", 2, 0], ["positive", 1, 1]]
    assert artifact(run, "test/mistakes.json")["data"][0][0] == "t7"
    assert artifact(run, "data/lengths.json") == {"columns": ["split", "mean"], "data": [["train", "9.5"]]}
    assert artifact(run, "result.json")["test/accuracy"] == 0.75


def test_a_resumed_run_continues_its_run_with_each_step_once() -> None:
    with pytest.raises(Interrupted), tracker() as killed:
        train(killed, range(1, 16))
        raise Interrupted(15)
    (run,) = runs()
    assert run.info.status == "KILLED"
    rewind(10)
    with tracker(resumed_step=10, config=options()["config"] | {"lr": 1.0}) as resumed:
        log_data(resumed)
        train(resumed, range(11, 21))
        end(resumed)
    (again,) = runs()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert [step for step, _ in history(run, "train/loss")] == list(range(1, 21))
    assert [step for step, _ in history(run, "val/loss")] == [10, 20]


def test_steps_that_a_killed_process_did_not_send_are_sent_when_the_run_resumes() -> None:
    killed = tracker()
    killed.__enter__()
    train(killed, range(1, 6))
    assert killed._requests.close(60)  # later points are never sent, and the run is not ended
    train(killed, range(6, 16))
    rewind(10)
    with tracker(resumed_step=10) as resumed:
        train(resumed, range(11, 21))
    (run,) = runs()
    assert [step for step, _ in history(run, "train/loss")] == list(range(1, 21))


def test_an_error_marks_the_run_as_failed_and_a_new_start_replaces_it() -> None:
    with pytest.raises(ValueError), tracker() as failed:
        train(failed, range(1, 6))
        raise ValueError
    (first,) = runs()
    assert first.info.status == "FAILED"
    rewind(0)
    with tracker() as again:
        train(again, range(1, 3))
    (second,) = runs()
    assert second.info.run_id != first.info.run_id
    assert [step for step, _ in history(second, "train/loss")] == [1, 2]


def test_project_uri_and_experiment_name_are_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    for project, expected in ((None, "mine"), ("films", "films")):
        with tracker(project=project, mode="online", connect_seconds=HANG_SECONDS) as logged:
            train(logged, range(1, 3))
        assert len(runs(uri, expected)) == 1
    with tracker(mode="offline") as local:
        train(local, range(1, 3))
    assert len(runs(project="mine")) == 1


def test_variables_of_other_trackers_have_no_effect(launch: Launch, tmp_path: Path) -> None:
    """`config.yaml` records W&B's project, but the name of the MLflow experiment comes from MLflow's variable."""
    variables = {"WANDB_PROJECT": "films", "WANDB_MODE": "offline", "MLFLOW_EXPERIMENT_NAME": "mine"}
    launch(tmp_path, "train", *TINY, "tracker=[wandb,mlflow]", "study=both", "epochs=1", **variables)
    (run,) = runs(f"sqlite:///{tmp_path}/runs/both/mlflow/mlflow.db", project="mine")
    config = yaml.safe_load((tmp_path / "runs/both" / run.info.run_name / "config.yaml").read_text())
    assert config["tracker"]["project"] == "films"


def test_every_label_can_be_part_of_a_param() -> None:
    class_weights = {"good!": 1, "good?": 2, "good": 3, "très <b> a/b": 5}
    with tracker(config={"lr": 3e-5, "loss": {"class_weights": class_weights}}) as logged:
        train(logged, range(1, 3))
    (run,) = runs()
    weights = {"good_-9183ce74": "1", "good_-b1f2b383": "2", "good": "3", "très _b_ a/b": "5"}
    assert run.data.params == {"lr": "3e-05", **{f"loss.class_weights.{name}": v for name, v in weights.items()}}


def test_every_part_of_the_test_split_has_its_own_metrics() -> None:
    parts = ("(none)", "c#", "c+", "c_", "news & views", "v1.0", "/", "a//b", "../b", "e\u0301", "x" * 300)
    result = {"test/accuracy": 0.75, "test/parts": {part: {"accuracy": i / 100} for i, part in enumerate(parts)}}
    with tracker() as logged:
        train(logged, range(1, 3))
        logged.finish(result, STUDY / NAME)
    (run,) = runs()
    assert run.data.metrics["test/accuracy"] == 0.75
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("test/parts.")}
    assert sorted(found.values()) == [i / 100 for i in range(len(parts))]
    for part, i in (("_none_", 0), ("c_", 3), ("news _ views", 4), ("v1.0", 5), ("a/_/b", 7), ("../b", 8), ("e_", 9)):
        assert found[f"test/parts.{part}.accuracy"] == i / 100


def test_online_needs_a_server() -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set"), tracker(mode="online"):
        pass


def test_a_missing_server_is_replaced_by_the_local_file(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    with tracker() as logged:
        train(logged, range(1, 3))
    assert len(runs()) == 1
    errors = capfd.readouterr().err
    assert f"http://127.0.0.1:{port} failed" in errors and "secret" not in errors


@pytest.fixture
def stuck_server() -> Iterator[str]:
    """Yield the URL of a server that answers like MLflow until the run is created, and then stops answering."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            experiment = {"experiment": {"experiment_id": "1", "name": "imdbcls", "lifecycle_stage": "active"}}
            self.answer(experiment if "get-by-name" in self.path else {})

        def do_POST(self) -> None:
            if not self.path.endswith("runs/create"):
                released.wait(HANG_SECONDS)
            self.answer({"run": {"info": {"run_id": "77", "experiment_id": "1", "status": "RUNNING"}, "data": {}}})

        def answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    released.set()
    server.shutdown()


def test_a_stuck_server_does_not_delay_training(
    stuck_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import imdbcls.tracking.mlflow_run  # noqa: F401  (its import is not measured)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", stuck_server)
    with tracker(connect_seconds=HANG_SECONDS, finish_seconds=0.5) as logged:
        assert logged.links == {"mlflow": f"{stuck_server}/#/experiments/1/runs/77"}
        started = time.monotonic()
        train(logged, range(1, 200))
        end(logged)
    assert time.monotonic() - started < HANG_SECONDS / 2, "the first request gets no answer for `HANG_SECONDS`"
    assert "the upload is incomplete after 0.5 s" in capfd.readouterr().err


def test_a_server_with_a_password_is_used_and_the_password_is_not_shown(
    stuck_server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stuck_server.replace("//", "//me:secret@"))
    with tracker(connect_seconds=HANG_SECONDS, finish_seconds=0.5) as logged:
        assert logged.links == {"mlflow": f"{stuck_server}/#/experiments/1/runs/77"}
    assert describe_auto().endswith(f"logs to {stuck_server} (MLFLOW_TRACKING_URI)")
    errors = capfd.readouterr().err
    assert f"MLflow: {stuck_server}/#/experiments/1/runs/77" in errors and "secret" not in errors


def test_a_password_is_not_shown() -> None:
    assert without_password("https://me:k@y@host/path@x") == "https://host/path@x"
    assert without_password("https://host failed, ask me@host") == "https://host failed, ask me@host"
    assert first_line(ValueError("GET http://me:key@host/a failed.\nmore")) == "GET http://host/a failed"
    assert without_password("https://me:key@host/path@x") == "https://host/path@x"
    assert without_password("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"
