"""The presets `debug=overfit|fast|limit|profile` have the documented effects, and their runs are stored separately."""

import gzip
import json
from pathlib import Path

import pytest
from support.runs import Launch

import imdbcls
from imdbcls.config.earlier_versions import with_later_keys
from imdbcls.config.options import groups
from imdbcls.data.sample import read_sample
from imdbcls.data.splits import make_corpus

SMALL = ("backbone=tiny", "data=sample", "max_length=64", "device=cpu", "precision=fp32", "progress=none")
PRESETS = sorted(groups()["debug"])


def result_of(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("runs/*/*/result.json")
    assert path.parts[-3] == "debug" and not list(folder.glob("runs/debug/wandb"))
    found: dict[str, object] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_reaches_a_study_or_a_tracker(preset: str) -> None:
    config = imdbcls.compose(f"debug={preset}", "experiment=quickstart")
    assert (config.study, config.tracker.mode) == ("debug", "disabled")
    assert imdbcls.compose(f"debug={preset}", "study=debug-heads").study == "debug-heads"
    with pytest.raises(imdbcls.UserError, match=rf"study=heads: with debug={preset}, the name of the study must"):
        imdbcls.compose(f"debug={preset}", "study=heads")


def test_overfit_reaches_every_training_document(tmp_path: Path, launch: Launch) -> None:
    launch(tmp_path, "train", *SMALL, "debug=overfit", "head=mean", "lr=3e-3")
    result = result_of(tmp_path)
    assert result["val/accuracy"] == 1.0
    assert result["train_documents"] == 32


def test_profile_logs_operators_and_writes_a_trace(tmp_path: Path, launch: Launch) -> None:
    done = launch(tmp_path, "train", *SMALL, "debug=profile")
    result = result_of(tmp_path)
    assert (result["steps"], result["profiled_steps"]) == (8, 5)
    lines = done.stderr.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Slowest operators in 5 training"))
    assert lines[start + 1].split() == ["operator", "ms", "share", "calls"]
    assert any(line.startswith("aten::") for line in lines[start + 2 : start + 18])
    (trace,) = tmp_path.glob("runs/debug/*/trace.json.gz")
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")}
    assert len(steps) == 5


def test_fast_is_one_epoch_of_two_steps(tmp_path: Path, launch: Launch) -> None:
    launch(tmp_path, "train", *SMALL, "debug=fast")
    result = result_of(tmp_path)
    assert (result["steps"], result["test_documents"]) == (2, 16)


def test_a_limit_below_one_is_a_fraction_of_each_split() -> None:
    settings = {"validation_fraction": 0.25, "test_fraction": 0.2, "split_seed": 0}
    limits = ("train_limit", "validation_limit", "test_limit")
    whole = make_corpus(read_sample(), **settings, **dict.fromkeys(limits))
    half = make_corpus(read_sample(), **settings, **dict.fromkeys(limits, 0.5))
    for name, documents in half.splits.items():
        assert len(documents) == round(len(whole.splits[name]) / 2)
        assert set(documents.ids) <= set(whole.splits[name].ids)


def test_validation_on_train_carves_nothing_out_of_train() -> None:
    settings = {"validation_fraction": 0.25, "test_fraction": 0.2, "split_seed": 0, "validation_limit": None}
    corpus = make_corpus(read_sample(), **settings, train_limit=40, test_limit=None, validate_on_train=True)
    assert corpus.validation.ids == corpus.train.ids and len(corpus.train) == 40
    assert not set(corpus.test.ids) & set(corpus.train.ids)


def test_the_new_keys_change_no_hash_of_an_earlier_run() -> None:
    config = imdbcls.compose()
    assert "validate_on_train" not in config.choices()["data"] and "profile_steps" not in config.choices()["trainer"]
    earlier = config.plain()
    del earlier["data"]["validate_on_train"], earlier["trainer"]["profile_steps"]
    assert with_later_keys(earlier) == config.plain()
