"""For an encoder of an earlier run, check that the run is finished and has weights, and which documents it held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from imdbcls.config.overrides import compose
from imdbcls.config.schema import Config
from imdbcls.data.documents import Corpus
from imdbcls.data.pretraining import unlabelled_documents
from imdbcls.errors import UserError
from imdbcls.runs.encoder_source import encoder_source_of, same_splits_of
from imdbcls.runs.identity import split_choices_hash


def config(*overrides: str) -> Config:
    return compose(["backbone=minilm", "data=sample", *overrides])


def corpus(held_out_hash: str = "h", split_hash: str = "b") -> Corpus:
    empty = unlabelled_documents([])
    return Corpus(empty, empty, empty, ("no", "yes"), split_hash, (), held_out_hash)


def earlier_run(folder: Path, result: dict[str, Any] | None, *overrides: str) -> Path:
    """Write the files that identify a run folder and, with `result`, also its `result.json` and `config.yaml`."""
    for file in ("checkpoints/best/model.safetensors", "backbone/config.json"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("{}")
    if result is not None:
        (folder / "result.json").write_text(json.dumps({"status": "done", **result}))
        (folder / "config.yaml").write_text(str(config(*overrides)))
    return folder


@pytest.mark.parametrize(
    ("overrides", "same"),
    (
        ((), True),
        (("data.train_limit=50", "data.test_limit=20", "seed=3", "lr=1e-3", "data.order_seed=4"), True),
        (("data.split_seed=1",), False),
        (("data.test_fraction=0.3",), False),
        (("data.validation_fraction=0.2",), False),
        (("data.validate_on_train=true",), False),
        (("data=imdb",), False),
    ),
)
def test_other_documents_or_other_splits_are_warned_of(tmp_path: Path, overrides: tuple[str, ...], same: bool) -> None:
    result = {"split_choices_hash": split_choices_hash(config()), "split_hash": "a"}
    folder = earlier_run(tmp_path / "mlm-s0-12345678", result)
    found = encoder_source_of(config(f"backbone.path={folder}", *overrides), corpus())
    assert found is not None and found.fields == {"run": "mlm-s0-12345678", "same_splits": same}
    if same:
        assert found.warning is None
    else:
        assert found.warning is not None and "the run mlm-s0-12345678 held out other documents (" in found.warning


def test_the_same_held_out_documents_count_and_not_the_way_to_read_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\ngood;1\n")
    files = ("data=files", f"data.train={tmp_path / 'a.csv'}")
    written = (*files, "data.delimiter=semicolon", "data.encoding=latin-1")
    folder = earlier_run(tmp_path / "run", {"split_choices_hash": "x", "held_out_hash": "h"}, *written)
    chosen = config(*files, f"backbone.path={folder}", "data.split_seed=3")
    found = encoder_source_of(chosen, corpus("h"))
    assert found is not None and found.same_splits and found.warning is None
    found = encoder_source_of(chosen, corpus("other"))
    assert found is not None and found.warning is not None
    assert "(other values of data.delimiter, data.encoding, data.split_seed)" in found.warning
    same = encoder_source_of(config(*written, f"backbone.path={folder}"), corpus("other"))
    assert same is not None and same.warning is not None and "the content of the files has changed" in same.warning
    (folder / "config.yaml").write_text("data: [")
    unreadable = encoder_source_of(config(*written, f"backbone.path={folder}"), corpus("other"))
    assert unreadable is not None and unreadable.warning is not None
    assert "held out other documents (its config.yaml cannot be read)" in unreadable.warning


def test_edited_files_are_other_documents(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,1\n")
    files = ("data=files", f"data.train={tmp_path / 'a.csv'}")
    folder = earlier_run(tmp_path / "run", {"split_choices_hash": split_choices_hash(config(*files))})
    chosen = config(*files, f"backbone.path={folder}")
    found = encoder_source_of(chosen, corpus())
    assert found is not None and found.same_splits
    (tmp_path / "a.csv").write_text("text,label\nother,1\n")
    found = encoder_source_of(chosen, corpus())
    assert found is not None and found.same_splits is False


@pytest.mark.parametrize("result", ({}, {"split_hash": "a"}))
def test_a_run_without_recorded_splits_is_warned_of(tmp_path: Path, result: dict[str, Any]) -> None:
    chosen = config(f"backbone.path={earlier_run(tmp_path / 'run', result)}")
    found = encoder_source_of(chosen, corpus())
    assert found is not None and found.same_splits is None
    assert found.warning is not None and "does not record its splits" in found.warning
    if result:
        same = encoder_source_of(chosen, corpus(split_hash="a"))
        assert same is not None and same.same_splits and same.warning is None


def test_the_encoder_of_a_run_may_come_from_a_run_with_other_splits(tmp_path: Path) -> None:
    result = {"split_choices_hash": split_choices_hash(config()), "encoder_source": {"run": "x", "same_splits": False}}
    found = encoder_source_of(config(f"backbone.path={earlier_run(tmp_path / 'run', result)}"), corpus())
    assert found is not None and found.same_splits is False
    assert found.warning is not None and "started from an encoder of a run with other splits" in found.warning


def test_only_weights_of_a_run_have_a_source(tmp_path: Path) -> None:
    assert encoder_source_of(config(), corpus()) is None
    assert encoder_source_of(config("backbone=tiny"), corpus()) is None
    folder = earlier_run(tmp_path / "run", None)
    assert encoder_source_of(config(f"backbone.path={folder}", "backbone.pretrained=false"), corpus()) is None


@pytest.mark.parametrize(
    ("result", "problem"),
    (
        (None, "result.json is missing or damaged"),
        ({"status": "interrupted", "split_choices_hash": "x"}, "its status is interrupted"),
        ({"status": "failed"}, "its status is failed"),
    ),
)
def test_a_run_that_is_not_finished_is_refused(tmp_path: Path, result: dict[str, Any] | None, problem: str) -> None:
    folder = earlier_run(tmp_path / "run", result)
    with pytest.raises(UserError, match=rf"^backbone\.path={folder}: this run is not finished \({problem}\)\."):
        config(f"backbone.path={folder}")
    (folder / "checkpoints/best/model.safetensors").unlink()
    with pytest.raises(UserError, match="this run is not finished"):
        config(f"backbone.path={folder}")
    assert config(f"backbone.path={folder}", "backbone.pretrained=false").backbone.pretrained is False


def test_a_finished_run_without_weights_is_refused(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "run", {})
    (folder / "checkpoints/best/model.safetensors").unlink()
    problem = r"has no weights, because .*\. Restore them from a copy, or use another run\."
    with pytest.raises(UserError, match=rf"^backbone\.path={folder}: this run {problem}$"):
        config(f"backbone.path={folder}")
    assert config(f"backbone.path={folder}", "backbone.pretrained=false").backbone.pretrained is False


def test_a_pretrained_encoder_is_accepted(tmp_path: Path) -> None:
    config(f"backbone.path={earlier_run(tmp_path / 'run', {'status': 'pretrained'})}")


def test_the_worst_of_several_runs_counts() -> None:
    plain, true, false, unknown = {}, *({"encoder_source": {"run": "x", "same_splits": x}} for x in (True, False, None))
    assert same_splits_of([]) is same_splits_of([plain]) is same_splits_of([plain, true]) is True
    assert same_splits_of([true, unknown]) is same_splits_of([{"encoder_source": {"same_splits": "yes"}}]) is None
    assert same_splits_of([unknown, false, true]) is False
