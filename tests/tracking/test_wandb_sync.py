"""`wandb sync` uploads offline runs completely: history, config, summary, tables and artifacts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_wandb import PATIENT, FakeWandb
from support.fake_wandb.store import Run
from support.processes import EVERY_STEP, TIMES, TINY, kill_at, run
from support.trackers import logs, tracker, train

STUDY = (*TINY, "tracker=wandb", *PATIENT, "trainer.log_every=1", "study=uploaded")


def sync(folder: Path, server: FakeWandb) -> None:
    server.run_client(["-m", "wandb", "sync", "runs/uploaded/wandb"], folder)
    assert server.errors() == []


def recorded(folder: Path, uploaded: Run) -> list[dict[str, Any]]:
    """Return the records of the run's `metrics.jsonl`."""
    lines = (folder / "runs/uploaded" / uploaded.display_name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_history(folder: Path, uploaded: Run, *, with_times: bool = True) -> None:
    """Assert that the history of the W&B run has each record of `metrics.jsonl` once, and no other steps.

    Without `with_times`, timings may differ: a resumed run may repeat a step that the killed process had already sent.
    """
    points = [point for point in uploaded.points() if point["step"] > 0]  # step 0 logs the data card
    expected = recorded(folder, uploaded)
    assert [point["step"] for point in points] == [point["step"] for point in expected]
    for point, line in zip(points, expected, strict=True):
        keys = [key for key in line if with_times or not key.endswith(TIMES)]
        assert {key: point[key] for key in keys} == {key: line[key] for key in keys}
        assert point["_step"] == line["step"]


@pytest.mark.slow
def test_sync_uploads_every_run_of_a_study(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    run(tmp_path, "--multirun", "head=cls,max", *STUDY, "tracker.mode=offline")
    sync(tmp_path, fake_wandb)
    uploaded = fake_wandb.runs("train")
    assert sorted(each.display_name.split("-")[0] for each in uploaded) == ["cls", "max"]
    for each in uploaded:
        folder = tmp_path / "runs/uploaded" / each.display_name
        assert (each.group, each.state, each.exit_code) == ("uploaded", "finished", 0)
        assert_same_history(tmp_path, each)
        result = json.loads((folder / "result.json").read_text())
        assert {key: each.summary.get(key) for key in result} == result  # W&B leaves out keys with null
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert each.values()["head"]["_target_"] == config["head"]["_target_"]
        assert (each.values()["lr"], each.values()["group_hash"]) == (config["lr"], result["group_hash"])
        tables = [name for name in each.files if "test_mistakes" in name]
        assert len(tables) == 1 and json.loads(fake_wandb.file_of(each, tables[0]).read_text())["data"]
        logged = [artifact for artifact in fake_wandb.artifacts("run_table") if artifact.created_by == each.id]
        assert any("test_mistakes" in artifact.collection for artifact in logged)
        assert all(artifact.files for artifact in logged)
    cards = [each for each in uploaded if any("data_sizes" in name for name in each.files)]
    assert len(cards) == 1, "the data card is logged once per study"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_killed_and_resumed_run_has_each_step_once(mode: str, fake_wandb: FakeWandb, tmp_path: Path) -> None:
    arguments = (*STUDY, EVERY_STEP, "epochs=12", f"tracker.mode={mode}")
    # wandb writes every two seconds, so W&B has lost the last steps before the checkpoint.
    kill_at(tmp_path, *arguments, step=30, environment=fake_wandb.environment)
    run(tmp_path, *arguments, environment=fake_wandb.environment)
    if mode == "offline":
        assert len(list(tmp_path.glob("runs/uploaded/wandb/offline-run-*"))) == 2
        assert fake_wandb.runs() == []
        sync(tmp_path, fake_wandb)
    (uploaded,) = fake_wandb.runs()
    assert (uploaded.state, len(recorded(tmp_path, uploaded))) == ("finished", 144)
    assert_same_history(tmp_path, uploaded, with_times=False)
    assert uploaded.summary["status"] == "done"


@pytest.mark.slow
def test_sync_uploads_the_last_start_of_a_run(
    fake_wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed before its first checkpoint has left a log that ends inside a record."""
    monkeypatch.chdir(tmp_path)
    with tracker(mode="offline") as killed:
        train(killed, last=40)
    (torn,) = logs()
    torn.write_bytes(torn.read_bytes()[:5_000])
    time.sleep(1.1)  # W&B's folder names have a resolution of one second
    with tracker(mode="offline") as started_again:
        train(started_again)
    fake_wandb.run_client(["-m", "wandb", "sync", "runs/first/wandb"], tmp_path)
    assert fake_wandb.steps() == list(range(1, 21))


@pytest.mark.slow
def test_sync_again_changes_nothing(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    run(tmp_path, *STUDY, "tracker.mode=offline")
    for _ in range(2):
        sync(tmp_path, fake_wandb)
        (uploaded,) = fake_wandb.runs()
        assert_same_history(tmp_path, uploaded)
