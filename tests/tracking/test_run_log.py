"""The W&B log of a run, read back: definitions, config, curves, messages and artifacts."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.fake_wandb import PATIENT, FakeWandb
from support.limits import HANG_SECONDS
from support.processes import EVERY_STEP, saved_step, start, wait_for
from support.processes import TINY as ONE_RUN
from support.runs import TINY, Launch
from support.trackers import helpers, logs, records, summary, tracker, train

from imdbcls.runtime.messages import recorded_messages
from imdbcls.tracking.artifacts import aliases_of, dataset_artifact
from imdbcls.tracking.metrics import COPIES

NOTES = "The first try, with 'quotes'."
COPIED = {"train_loss": "train/loss", "val_accuracy": "val/accuracy", "val_loss": "val/loss"}
OFFLINE = ("tracker=wandb", "tracker.mode=offline")


@pytest.fixture(scope="module")
def study(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a study of two heads that were trained at the same time, and what stderr showed."""
    folder = tmp_path_factory.mktemp("study")
    options = ("jobs=2", "tracker.wandb.log_model=true", "tracker.tags=[paper,second try]", f'tracker.notes="{NOTES}"')
    done = launch(folder, "train", "--multirun", "head=mean,cls", *TINY, *OFFLINE, *options, "study=two", fresh=True)
    return folder / "runs" / "two", done.stderr


@pytest.fixture(scope="module", params=["mean", "cls"])
def run(request: pytest.FixtureRequest, study: tuple[Path, str]) -> Path:
    (found,) = study[0].glob(f"{request.param}-s0-*")
    return found


def log_of(run: Path) -> Path:
    (found,) = run.parent.glob(f"wandb/offline-run-*/run-{run.name}-*.wandb")
    return found


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def history_of(log: Path) -> list[dict[str, Any]]:
    """Return the history in a W&B log, without W&B's own keys and keys that repeat a metric."""
    items = [record["item"] for record in records(log, "history")]
    points = [
        {key: value for key, value in item.items() if not key.startswith(("_", "view/", COPIES))} for item in items
    ]
    return [point for point in points if point != {"step": 0}]  # the tables of the data card


def points_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_history_equals_the_metrics_file(run: Path) -> None:
    assert history_of(log_of(run)) == points_of(run)


def test_copies_of_the_main_curves_sort_first(run: Path) -> None:
    items = [record["item"] for record in records(log_of(run), "history")]
    for item in items:
        for copy, original in COPIED.items():
            assert item.get(f"curves/{copy}") == item.get(original)
    curves = sorted({key for item in items for key in item if not key.startswith("_")})
    assert curves[:3] == [f"curves/{copy}" for copy in COPIED]


def test_metrics_are_defined(run: Path) -> None:
    found = {record.get("name") or record["glob_name"]: record for record in records(log_of(run), "metric")}
    assert found["step"]["options"]["hidden"] and found["epoch"]["options"]["hidden"]
    assert found["curves/*"]["options"]["hidden"]
    best = {name: record["summary"] for name, record in found.items() if "summary" in record}
    assert {name for name, kind in best.items() if kind == {"max": True}} == {"val/accuracy", "val/f1", "val/auroc"}
    assert {name for name, kind in best.items() if kind == {"min": True}} == {"val/loss", "val/brier", "train/loss"}
    assert len(best) == 6
    for name in ("train/*", "val/*", "curves/*", *best):
        assert found[name]["step_metric"] == "step"


def test_config_names_the_group_the_commit_and_the_command(run: Path, study: tuple[Path, str]) -> None:
    shown, result = summary(log_of(run)), result_of(run)
    for key in ("group_hash", "group_label", "git_commit", "command"):
        assert shown["config"][key] == result[key], key
    head = run.name.partition("-")[0]
    assert result["group_label"].startswith(f"{head} tiny sample ")
    assert "-m imdbcls.train --multirun head=mean,cls" in result["command"]
    assert "'tracker.tags=[paper,second try]'" in result["command"]


def test_tags_and_notes_reach_the_log(run: Path) -> None:
    (record,) = records(log_of(run), "run")
    assert sorted(record["tags"]) == sorted([run.name.partition("-")[0], "tiny", "sample", "paper", "second try"])
    assert record["notes"] == NOTES
    assert (record["run_group"], record["job_type"], record["display_name"]) == ("two", "train", run.name)


def test_the_summary_of_a_finished_run_is_its_result(run: Path) -> None:
    numbers, result = summary(log_of(run))["summary"], result_of(run)
    assert {key: numbers.get(key) for key in result} == result
    assert not [key for key in numbers if key.startswith(("train/", COPIES))]


def test_messages_are_logged_also_if_the_sweep_hides_them(run: Path, study: tuple[Path, str]) -> None:
    """All messages that stderr shows are logged, in the same order."""
    prefix = f"{run.name}: "
    lines = [record["line"].rstrip("\n") for record in records(log_of(run), "output_raw")]
    shown = [line.removeprefix(prefix) for line in study[1].splitlines() if line.startswith(prefix)]
    logged = [line.removeprefix(prefix).replace(f"warning: {prefix}", "warning: ") for line in lines]
    assert len(shown) < len(logged) and [line for line in logged if line in shown] == shown
    text = "\n".join(lines)
    for part in ("loading the documents", "warning: ", "parameters (", "test accuracy", "next: "):
        assert part in text, text
    assert not [line for line in lines if "W&B" in line and "wandb sync" not in line]


def artifacts_of(log: Path) -> dict[str, dict[str, Any]]:
    found = {record["type"]: record for record in records(log, "artifact") if record["type"] != "run_table"}
    assert set(found) == {"dataset", "predictions", "model"}
    return found


def test_every_run_uses_the_same_dataset(study: tuple[Path, str]) -> None:
    found = [artifacts_of(log)["dataset"] for log in study[0].glob("wandb/offline-run-*/*.wandb")]
    result = result_of(next(study[0].glob("mean-s0-*")))
    assert len(found) == 2 and found[0]["digest"] == found[1]["digest"]
    for dataset in found:
        assert dataset["name"] == "sample" and dataset["use_after_commit"]
        metadata = json.loads(dataset["metadata"])
        assert metadata["split_hash"] == result["split_hash"]
        assert metadata["documents"] == {"train": 64, "validation": 24, "test": 40}
        (entry,) = dataset["manifest"]["contents"]
        assert entry["ref"].endswith(result["split_hash"]) and "local_path" not in entry, "nothing is uploaded"


def test_equal_splits_have_one_digest() -> None:
    sizes = {"train": 8, "validation": 2, "test": 2}
    one, same, other = (
        dataset_artifact("imdb", split_hash, sizes, {"path": path})
        for split_hash, path in (("abcd", "stanfordnlp/imdb"), ("abcd", "/data/imdb"), ("abce", "/data/imdb"))
    )
    assert one.digest == same.digest != other.digest


def test_predictions_and_weights_are_artifacts(run: Path, tmp_path: Path, launch: Launch) -> None:
    found = artifacts_of(log_of(run))
    label = result_of(run)["group_label"]
    for kind in ("predictions", "model"):
        artifact = found[kind]
        assert artifact["name"] == f"two-{kind}" and artifact["aliases"] == ["latest", run.name, label]
        assert json.loads(artifact["metadata"])["group_label"] == label
        assert "use_after_commit" not in artifact
        for entry in artifact["manifest"]["contents"]:
            staged = Path(entry["local_path"])
            assert staged.is_relative_to(run.parent / "wandb"), "wandb sync needs the file when the original is gone"
            assert staged.read_bytes() == (run / entry["path"]).read_bytes()
    assert [entry["path"] for entry in found["predictions"]["manifest"]["contents"]] == [
        "predictions/test.parquet",
        "predictions/validation.parquet",
    ]
    downloaded = tmp_path / "model"
    for entry in found["model"]["manifest"]["contents"]:
        (downloaded / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(entry["local_path"], downloaded / entry["path"])
    done = launch(tmp_path, "predict", "model", "A quiet, patient film.")
    assert set(json.loads(done.stdout)["probabilities"]) == {"negative", "positive"}


def test_aliases_are_valid_for_wandb() -> None:
    from wandb.sdk.artifacts._validators import validate_aliases

    aliases = aliases_of("cls-s0-1a2b3c4d", "cls path=owner/name class_weights=a:1,b:2" + "x" * 200)
    assert aliases[:2] == ["latest", "cls-s0-1a2b3c4d"] and aliases[2].startswith("cls path=owner-name class_weights")
    assert validate_aliases(aliases) == aliases and all(len(alias) <= 128 for alias in aliases)


# Runs that have not ended, or that have failed


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_the_summary_of_a_running_job_is_its_best(offline: None) -> None:
    with pytest.raises(ZeroDivisionError), tracker() as run:
        for step, (accuracy, loss) in enumerate([(0.5, 0.9), (0.9, 0.3), (0.7, 0.6)], 1):
            run.log({"step": step, "val/accuracy": accuracy, "val/loss": loss, "train/loss": loss, "val/ece": loss})
        raise ZeroDivisionError
    numbers = summary(logs()[0])["summary"]
    assert numbers["val/accuracy"] == {"max": 0.9}
    assert numbers["val/loss"] == numbers["train/loss"] == {"min": 0.3}
    assert numbers["val/ece"] == 0.6 and numbers["curves/val_accuracy"] == 0.7


def console_of(log: Path) -> str:
    return "".join(record["line"] for record in records(log, "output_raw"))


def test_console_can_be_turned_off_and_an_error_is_logged(launch: Launch, tmp_path: Path) -> None:
    launch(tmp_path, "train", *TINY, *OFFLINE, "study=quiet", "tracker.wandb.console=false", "epochs=1")
    launch(tmp_path, "train", *TINY, *OFFLINE, "study=broken", "lr=1e30", expect=2)
    (quiet,) = tmp_path.glob("runs/quiet/wandb/offline-run-*/*.wandb")
    (broken,) = tmp_path.glob("runs/broken/wandb/offline-run-*/*.wandb")
    assert console_of(quiet) == ""
    assert "the loss is nan" in console_of(broken) and summary(broken)["exit_code"] == 1


def test_a_traceback_is_logged(offline: None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), recorded_messages(), tracker() as run:
        train(run, last=1)
        logging.getLogger("imdbcls.somewhere").info("several\nlines")
        raise ZeroDivisionError
    text = console_of(logs()[0])
    assert text.startswith("several\nlines\nTraceback") and text.rstrip().endswith("ZeroDivisionError")
    assert "Traceback" not in capfd.readouterr().err, "only the command shows the error"


def test_messages_are_logged_without_delay_if_wandb_is_stuck(offline: None) -> None:
    with recorded_messages(), tracker(finish_seconds=2) as run:
        train(run, last=1)
        for helper in helpers():
            os.kill(int(helper), signal.SIGSTOP)
        began = time.monotonic()
        for number in range(200):
            logging.getLogger("imdbcls.somewhere").info("message %d", number)
        assert time.monotonic() - began < 60, "no message waits for wandb"


@pytest.mark.slow
def test_a_killed_and_resumed_run_logs_each_step_once(tmp_path: Path) -> None:
    arguments = (*ONE_RUN, EVERY_STEP, "epochs=40", "tracker=wandb", "tracker.mode=offline")
    command = start(tmp_path, *arguments)
    assert wait_for(lambda: saved_step(tmp_path) >= 6, command)
    command.signal(signal.SIGKILL)
    command.wait()
    assert start(tmp_path, *arguments).wait() == 0
    (run,) = (path.parent for path in tmp_path.glob("runs/*/*/result.json"))
    found = sorted(run.parent.glob("wandb/offline-run-*/*.wandb"))
    assert len(found) == 2
    points = [point for log in found for point in history_of(log)]
    expected = points_of(run)
    assert [point["step"] for point in points] == [point["step"] for point in expected]
    for point, same in zip(points, expected, strict=True):
        assert point["train/loss"] == same["train/loss"]
    kinds = [[record["type"] for record in records(log, "artifact") if record["type"] != "run_table"] for log in found]
    assert kinds[0] in ([], ["dataset"]), "the killed process may have lost its last records"
    assert kinds[1] == ["dataset", "predictions"]


# A server


def uploaded(server: FakeWandb, kind: str) -> dict[str, bytes]:
    """Return the files of the artifact of this type. The server must have exactly one."""
    (artifact,) = server.artifacts(kind)
    return {name: server.file_in(artifact, name).read_bytes() for name in artifact.files}


def test_an_online_run_uploads_its_files_and_records_its_link(
    fake_wandb: FakeWandb, launch: Launch, tmp_path: Path
) -> None:
    launch(tmp_path, "train", *TINY, "tracker=wandb", *PATIENT, "study=online", **fake_wandb.environment)
    (run,) = (path.parent for path in tmp_path.glob("runs/online/*/result.json"))
    found = fake_wandb.run(run.name)
    assert result_of(run)["links"] == {"wandb": f"{fake_wandb.url}/someone/imdbcls/runs/{found.name}"}
    received = [point for point in found.points() if point["step"] > 0]
    for point, same in zip(received, points_of(run), strict=True):
        assert {key: point[key] for key in same} == same
    (dataset,) = fake_wandb.artifacts("dataset")
    assert dataset.metadata["split_hash"] == result_of(run)["split_hash"] and found.used_artifacts == [dataset.id]
    assert uploaded(fake_wandb, "predictions") == {
        f"predictions/{split}.parquet": (run / "predictions" / f"{split}.parquet").read_bytes()
        for split in ("test", "validation")
    }
    assert "test accuracy" in "\n".join(found.console)


def test_sync_uploads_the_artifacts_of_an_offline_study(
    study: tuple[Path, str], fake_wandb: FakeWandb, tmp_path: Path
) -> None:
    shutil.copytree(study[0] / "wandb", tmp_path / "wandb")
    environment = {**os.environ, **fake_wandb.environment, "HOME": str(tmp_path)}
    for log in (tmp_path / "wandb").glob("offline-run-*"):
        command = [sys.executable, "-m", "wandb", "sync", str(log)]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=HANG_SECONDS, capture_output=True)
    (dataset,) = fake_wandb.artifacts("dataset")  # logged once
    runs = fake_wandb.runs()
    assert len(runs) == 2 and all(run.used_artifacts == [dataset.id] for run in runs)
    assert all("loading the documents" in "\n".join(run.console) for run in runs)
    for kind in ("predictions", "model"):
        aliases = [alias for artifact in fake_wandb.artifacts(kind) for alias in artifact.aliases]
        assert {run.display_name for run in runs} <= set(aliases) and aliases.count("latest") == 1
