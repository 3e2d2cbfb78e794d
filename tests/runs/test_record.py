"""Finished runs with damaged files: training repairs them, and all readers report what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.api import TINY

import imdbcls
from imdbcls.comparison.study import read_study
from imdbcls.errors import UserError
from imdbcls.runs.record import problem_of_result
from imdbcls.runs.untrusted import sha256
from imdbcls.sweeps.jobs import outcome_of
from imdbcls.training import checkpoint
from imdbcls.training.trainer import Trainer

TIMES = ("seconds", "per_second", "latency_ms", "peak_memory_mb", "finished_at")


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("finished_runs")
    imdbcls.run(imdbcls.compose(*TINY, f"runs_dir={folder}"))
    return folder


@pytest.fixture
def copied(finished_runs: Path, tmp_path: Path) -> Path:
    """Return the run's folder in a copy of all runs."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return next((tmp_path / "runs" / "default").iterdir())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets one entry per training step from now on."""
    taken: list[int] = []
    step = Trainer.step

    def counting(self: Trainer, *arguments: Any) -> Any:
        taken.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", counting)
    return taken


def train_again(run: Path) -> imdbcls.FinishedRun:
    return imdbcls.run(imdbcls.compose(*TINY, f"runs_dir={run.parents[1]}"))


def read(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def alter(run: Path, **values: Any) -> None:
    (run / "result.json").write_text(json.dumps(read(run) | values))


def lose(*keys: str) -> Callable[[Path], None]:
    def alteration(run: Path) -> None:
        (run / "result.json").write_text(json.dumps({k: v for k, v in read(run).items() if k not in keys}))

    return alteration


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


# The change to result.json, and the expected message.
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a file": (lambda run: (run / "result.json").write_text('{"status": "do'), "result.json"),
    "a list": (lambda run: (run / "result.json").write_text("[]"), "result.json"),
    "a status only": (lambda run: (run / "result.json").write_text('{"status": "done"}'), "has no head, config_hash"),
    "one key lost": (lose("test/accuracy"), "result.json has no test/accuracy"),
    "two keys lost": (lose("split_hash", "val/accuracy"), "has no split_hash, val/accuracy"),
    "no status": (lose("status"), "has no status"),
    "a text for a number": (
        lambda run: alter(run, **{"test/accuracy": "0.9"}),
        "has the invalid value '0.9' for test/accuracy",
    ),
    "NaN": (lambda run: alter(run, **{"val/accuracy": float("nan")}), "has the invalid value nan for val/accuracy"),
    "more than all": (
        lambda run: alter(run, **{"test/accuracy": 95.3}),
        "has the invalid value 95.3 for test/accuracy",
    ),
    "a fraction of a seed": (lambda run: alter(run, seed=0.5), "has the invalid value 0.5 for seed"),
    "one class": (lambda run: alter(run, label_names=["all"]), "has ['all'] as label_names, which is not a list"),
    "a class twice": (lambda run: alter(run, label_names=["bad", "bad"]), "has 'bad' more than once in label_names"),
}


@pytest.mark.parametrize("damage", UNUSABLE)
def test_unusable_result_is_reported_by_all_readers(damage: str, copied: Path) -> None:
    alteration, words = UNUSABLE[damage]
    alteration(copied)
    with pytest.raises(UserError, match="does not contain a finished run") as refused:
        imdbcls.load_run(copied)
    assert words in str(refused.value) and "training command" in str(refused.value)
    if damage not in ("half a file", "a list"):
        assert problem_of_result(read(copied)) is not None
        assert outcome_of("name", 0, "", read(copied)).state == "failed", "a missing key must not raise a KeyError"


@pytest.mark.parametrize("damage", ["half a file", "a status only", "one key lost", "NaN", "a class twice"])
def test_training_again_repairs_an_unusable_result_without_training(
    damage: str, copied: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(copied)
    UNUSABLE[damage][0](copied)
    damaged = (copied / "result.json").read_bytes()
    again = train_again(copied)
    assert steps == []
    same = {key for key in before if not any(time in key for time in TIMES)}
    assert {key: again.result[key] for key in same} == {key: before[key] for key in same}
    assert (copied / "result.json.old-1").read_bytes() == damaged, "the damaged file must be kept"
    messages = capsys.readouterr().err
    assert "warning:" in messages and UNUSABLE[damage][1] in messages and "renamed to result.json.old-1" in messages
    assert "is already done" not in messages
    train_again(copied)
    assert "is already done" in capsys.readouterr().err


def test_result_of_another_run_is_not_accepted(
    copied: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(copied)
    alter(copied, config_hash="0" * 16, **{"test/accuracy": 1.0})
    assert train_again(copied).result["test/accuracy"] == before["test/accuracy"]
    assert steps == [] and "result.json belongs to another run" in capsys.readouterr().err


def test_a_run_without_checkpoints_or_record_is_trained_again(copied: Path, steps: list[int]) -> None:
    before = read(copied)
    alter(copied, **{"test/accuracy": None})
    shutil.rmtree(copied / "checkpoints")
    again = train_again(copied)
    assert steps and again.result["test/accuracy"] == before["test/accuracy"]


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("damage", ["rot", "lost"])
def test_damaged_predictions_are_reported_and_rewritten(
    damage: str, split: str, copied: Path, steps: list[int]
) -> None:
    path = copied / "predictions" / f"{split}.parquet"
    before = path.read_bytes()
    flip(path) if damage == "rot" else path.unlink()
    with pytest.raises(UserError, match=rf"predictions/{split}\.parquet .*training command again to rewrite"):
        imdbcls.load_run(copied).predictions(split)
    if split == "test":
        with pytest.raises(UserError, match=r"left out: it.* predictions"):
            read_study(copied.parent)
    train_again(copied)
    assert steps == [] and path.read_bytes() == before
    assert len(read_study(copied.parent).groups) == 1
    path.unlink()
    shutil.rmtree(copied / "checkpoints" / "last")
    with pytest.raises(UserError, match=r"trained from the beginning, because checkpoints/last is missing\.$"):
        imdbcls.load_run(copied).predictions(split)


def test_predictions_without_checksums_are_checked_for_truncation(copied: Path, steps: list[int]) -> None:
    """For older runs, complete files are accepted, and truncated files are written again."""
    lose("predictions_sha256")(copied)
    path = copied / "predictions" / "test.parquet"
    assert train_again(copied).result.get("predictions_sha256") is None
    path.write_bytes(path.read_bytes()[:-9])
    assert train_again(copied).result["predictions_sha256"]["test"] == sha256(path)
    assert steps == []


def test_finished_run_without_weights_is_still_done(copied: Path, steps: list[int]) -> None:
    """Checkpoints may be removed to save space. Only operations that need the weights report that they are missing."""
    shutil.rmtree(copied / "checkpoints")
    again = train_again(copied)
    assert steps == [] and again.result["status"] == "done"
    with pytest.raises(UserError, match=rf"has no weights.*move {copied} away and run its training command again"):
        again.predict(["A quiet, patient film."])


WEIGHTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a tensor missing": lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("head.")},
    "a tensor of another size": lambda tensors: {k: v[..., :-1] if "head" in k else v for k, v in tensors.items()},
    "one tensor more": lambda tensors: tensors | {"head.more": next(iter(tensors.values())).clone()},
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_mismatched_weights_give_one_sentence(damage: str, copied: Path) -> None:
    best = copied / "checkpoints" / "best"
    tensors = WEIGHTS[damage](load_file(best / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, best / "model.safetensors")
    manifest = json.loads((best / checkpoint.MANIFEST).read_text())
    path = best / "model.safetensors"
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (best / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"does not fit the model: head\..*Restore the checkpoint from a copy"):
        imdbcls.load_run(copied).predict(["A quiet, patient film."])
