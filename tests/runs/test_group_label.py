"""The label of a group names its choices. Runs that differ only in their seeds have the same label."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.api import TINY
from support.limits import HANG_SECONDS

import imdbcls
from imdbcls.runs.group_label import MAX_LENGTH, group_label
from imdbcls.runs.identity import group_hash
from imdbcls.runs.shipped import choices_of


def label(*overrides: str) -> str:
    return group_label(imdbcls.compose(*overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("", "cls"),
        ("head=lstm", "lstm"),
        ("head=weight_avg_plain max_length=128", "weight_avg_plain max_length=128"),
        ("head=lstm head.bidirectional=true lr=3e-5", "lstm bidirectional=true lr=3e-05"),
        ("backbone=minilm data=sample backbone.freeze=true", "cls minilm sample freeze=true"),
        ("backbone.freeze=0", "cls freeze=0"),
        ("optimizer=lion optimizer.betas=[0.9,0.95] loss=focal", "cls focal lion betas=0.9,0.95"),
        ("schedule=cosine loss.class_weights={neg:1,pos:5}", "cls cosine class_weights=neg:1.0,pos:5.0"),
        ("head.dropout=0.3 backbone.dropout=0.2", "cls dropout=0.3 backbone.dropout=0.2"),
        ("lr=1e-3 optimizer.lr=2e-3", "cls lr=0.001 optimizer.lr=0.002"),
        ("data=hub data.path=owner/name", "cls hub data.path=owner/name"),
        ("metric=f1 data.train_limit=4000", "cls metric=f1 train_limit=4000"),
        (
            "experiment=quickstart",
            "cls minilm sample epochs=5 max_length=128 validation_fraction=0.2",
        ),
    ],
)
def test_label_names_what_differs_from_the_shipped_values(overrides: str, expected: str) -> None:
    assert label(*overrides.split()) == expected


def test_seeds_and_keys_without_effect_do_not_change_the_label() -> None:
    same = ("seed=7", "data.order_seed=3", "study=other", "jobs=2", "tracker=none", "trainer.log_every=1")
    assert {label("head=lstm", each) for each in same} == {"lstm"}


def test_every_shipped_choice_is_recognised() -> None:
    conf = Path(imdbcls.__file__).parents[1] / "conf"
    found = 0
    for group in ("head", "backbone", "loss", "optimizer", "schedule"):
        for path in sorted((conf / group).glob("*.yaml")):
            config = imdbcls.compose(f"{group}={path.stem}")
            assert choices_of(config.plain())[group] == path.stem
            assert group_label(config) in (path.stem, f"cls {path.stem}", "cls")
            found += 1
    assert found > 20


def test_local_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    labels = []
    for folder, text in (("a", "text,label\nx,1\n"), ("b", "text,label\ny,1\n"), ("c", "text,label\nx,1\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "reviews.csv").write_text(text)
        labels.append(label("data=files", f"data.train={tmp_path}/{folder}/reviews.csv"))
    assert labels[0].startswith("cls files train=reviews.csv@") and str(tmp_path) not in labels[0]
    assert labels[0] != labels[1] and labels[0] == labels[2]


def test_long_labels_are_bounded_and_distinct() -> None:
    many = ("data.train_limit=4000", "data.truncation=windows", "metric=f1", "backbone.lora_rank=8", "warmup=0.06")
    many += ("trainer.ema_decay=0.99", "batch_size=32", "deterministic=true", "epochs=12", "backbone.dropout=0.2")
    configs = [imdbcls.compose("head=lstm", *many, f"loss.r_drop={weight}") for weight in (1, 2)]
    first, second = (group_label(config) for config in configs)
    assert first != second and len(first) <= MAX_LENGTH
    assert first.startswith("lstm batch_size=32") and first.endswith(f" {group_hash(configs[0])[:8]}")


def test_own_head_is_labelled_by_its_name_and_arguments(tmp_path: Path) -> None:
    config = imdbcls.compose("head=lstm").with_changes(head={"name": "mine"})
    assert group_label(config) == "mine dropout=0.1 bidirectional=false"


def test_a_label_is_made_without_torch() -> None:
    code = """
import sys, imdbcls
from imdbcls.runs.group_label import group_label
assert group_label(imdbcls.compose("head=lstm")) == "lstm"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_SECONDS)


def test_result_records_the_label_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["python", "-m", "imdbcls.train", "head=mean", "data.path=my reviews"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    config = imdbcls.compose(*TINY, "head=mean", f"runs_dir={tmp_path}")
    result: dict[str, Any] = imdbcls.run(config).result
    assert result["group_label"] == group_label(config)
    assert result["group_label"].startswith("mean tiny sample ")
    assert result["command"] == "python -m imdbcls.train head=mean 'data.path=my reviews'"
