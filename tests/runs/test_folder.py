"""The run folder: what it writes, and whether a training command skips, resumes or starts a run."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from support.runs import TINY

import imdbcls
from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.predictions import Predictions, write_predictions
from imdbcls.runs.read_predictions import BadPredictionsError, read_predictions
from imdbcls.runs.record import checksums_of_predictions, path_of_predictions

HASH = "1a2b3c4d5e6f7081"


def two_predictions(clusters: list[str] | None) -> Predictions:
    return Predictions(
        ids=np.array(["a", "b\0"], dtype=object),
        labels=np.array([0, 1]),
        predicted=np.array([0, 0]),
        probabilities=np.array([[0.75, 0.25], [0.5, 0.5]]),
        tokens=np.array([7, 3]),
        clusters=None if clusters is None else np.array(clusters, dtype=object),
        label_names=("neg", "pos"),
    )


def finished(folder: Path, **changes: Any) -> RunFolder:
    """Return the folder of a finished run with two documents. `changes` override keys of its result."""
    run = RunFolder(folder / f"cls-s0-{HASH[:8]}")
    run.path.mkdir(parents=True)
    for split in ("test", "validation"):
        clusters = ["x", "y"] if split == "test" else None
        write_predictions(path_of_predictions(run.path, split), two_predictions(clusters))
    result = {
        **{"status": "done", "head": "cls", "seed": 0, "config_hash": HASH, "group_hash": "0", "split_hash": "0"},
        **{"val/accuracy": 0.5, "test/accuracy": 0.5, "test_documents": 2, "label_names": ["neg", "pos"]},
        "predictions_sha256": checksums_of_predictions(run.path),
    }
    run.write_result(result | changes)
    return run


def test_predictions_have_a_row_per_document_and_name_the_classes(tmp_path: Path) -> None:
    run = finished(tmp_path)
    test = parquet.read_table(run.path / "predictions" / "test.parquet")
    assert test.to_pydict() == {
        "id": ["a", "b\0"],
        "label": [0, 1],
        "prediction": [0, 0],
        "probabilities": [[0.75, 0.25], [0.5, 0.5]],
        "tokens": [7, 3],
        "cluster": ["x", "y"],
    }
    assert json.loads(test.schema.metadata[b"label_names"]) == ["neg", "pos"]
    assert "cluster" not in parquet.read_table(run.path / "predictions" / "validation.parquet").column_names


def test_predictions_are_read_as_written_and_are_read_only(tmp_path: Path) -> None:
    for clusters in (["x", "y"], None):
        written = two_predictions(clusters)
        write_predictions(tmp_path / "test.parquet", written)
        found = read_predictions(tmp_path / "test.parquet")
        for field in fields(Predictions):
            one, other = getattr(written, field.name), getattr(found, field.name)
            assert np.array_equal(one, other) and getattr(one, "dtype", None) == getattr(other, "dtype", None)
        assert found.names == ["neg", "neg"] and found.correct.tolist() == [True, False]
        assert found.take(np.array([1])).ids.tolist() == ["b\0"]
        with pytest.raises(ValueError, match="read-only"):
            found.probabilities[0] = 0
    with pytest.raises(ValueError, match="labels of these documents are unknown"):
        write_predictions(tmp_path / "test.parquet", replace(written, labels=None))


@pytest.mark.parametrize(("limit", "value"), [("MAX_DOCUMENTS", 20), ("MAX_PROBABILITIES", 40), ("MAX_ID_TOTAL", 160)])
def test_run_whose_predictions_are_too_large_to_read_is_refused_before_training(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions of a run with the suggested limit can be read. The longest ids have 8 characters."""
    monkeypatch.setattr(f"imdbcls.runs.read_predictions.{limit}", value)
    arguments = [*TINY, "epochs=1", "data.train_limit=16", "data.validation_limit=8", "tracker=none"]
    arguments += ["progress=none", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match=r"^The test split has 21 .* at most 20 documents\. Set data\.test_limit=20\.$"):
        imdbcls.run(imdbcls.compose(*arguments, "data.test_limit=21"))
    assert not (tmp_path / "runs").exists()
    if limit == "MAX_PROBABILITIES":
        run = imdbcls.run(imdbcls.compose(*arguments, "data.test_limit=20"))
        assert len(run.predictions("test")) == 20


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, ("0", "1")),
        ({"label_names": '["no", "yes"]', "format_version": "1"}, ("no", "yes")),
        ({"label_names": '["no", "no"]'}, ("0", "1")),
        ({"label_names": "[" * 100_000}, ("0", "1")),
        ({"format_version": "2"}, "was written by a newer version of imdbcls (format_version 2; this version reads 1)"),
        ({"format_version": "one"}, "has format_version one, which is not a whole number"),
    ],
)
def test_the_metadata_of_predictions_is_optional_and_checked(
    metadata: dict[str, str], found: tuple[str, ...] | str, tmp_path: Path
) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, two_predictions(None))
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(metadata), path)
    if isinstance(found, tuple):
        assert read_predictions(path).label_names == found
    else:
        with pytest.raises(BadPredictionsError, match=re.escape(found)):
            read_predictions(path)


def test_outdated_name_of_cluster_column_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, two_predictions(["x", "y"]))
    table = parquet.read_table(path)
    parquet.write_table(table.rename_columns({"cluster": "group"}), path)
    with pytest.raises(BadPredictionsError, match="column 'group', which is now called 'cluster'"):
        read_predictions(path)
    parquet.write_table(table.append_column("group", table["id"]), path)
    clusters = read_predictions(path).clusters
    assert clusters is not None and clusters.tolist() == ["x", "y"]


def test_a_result_cannot_change_the_identity_of_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.identity = {"name": "lstm-s0", "seed": 0}
    written = run.write_result({"status": "failed", "seed": 1})
    assert list(written.items()) == [("format_version", 1), ("name", "lstm-s0"), ("seed", 0), ("status", "failed")]
    assert run.result() == written


def test_complete_run_is_returned_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    before = run.result()
    assert run.open_for_training() == before == run.result()
    assert "is already done: test accuracy 50.00%" in capsys.readouterr().err


def test_run_without_result_or_ended_early_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = RunFolder(tmp_path / "cls-s0-00000000")
    empty.path.mkdir()
    assert empty.open_for_training() is None
    for status in ("failed", "interrupted"):
        run = finished(tmp_path / status, status=status)
        assert run.open_for_training() is None
        assert run.result() is not None, "result.json is kept until the next one is written"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["predictions", "another run", "no number", "no JSON"])
def test_damaged_result_is_kept_under_another_name(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"another run": {"config_hash": "f" * 16}, "no number": {"test/accuracy": None}}
    run = finished(tmp_path, **changes.get(damage, {}))
    if damage == "predictions":
        (run.path / "predictions" / "test.parquet").unlink()
    if damage == "no JSON":
        (run.path / "result.json").write_text("{")
    record = (run.path / "result.json").read_bytes()
    (run.path / "result.json.old-1").write_text("an earlier one")
    assert run.open_for_training() is None
    assert not (run.path / "result.json").exists()
    assert (run.path / "result.json.old-2").read_bytes() == record
    assert "The old result.json was renamed to result.json.old-2" in capsys.readouterr().err
    assert run.open_for_training() is None and capsys.readouterr().err == ""


def test_a_folder_with_a_link_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is a symbolic link\. A run folder may contain only"):
        run.open_for_training()


def test_a_stopped_run_is_continued_only_outside_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, status="stopped")
    assert run.open_for_training() is None
    assert [path.name for path in run.path.glob("result.json*")] == ["result.json"], "the file must not be renamed"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr("sys.argv", ["train", "head=lstm", "tracker.notes='two words'"])
    result = run.open_for_training()
    assert result is not None and result["status"] == "stopped"
    advice = "outside a sweep: python -m imdbcls.train head=lstm 'tracker.notes='\"'\"'two words'\"'\"''"
    assert advice in capfd.readouterr().err
