"""The line of facts on a comparison says what was compared, using only what every run recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.studies import HEADS, make_study

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.facts import facts_line


def compared(study: Path) -> Comparison:
    return compare_study(read_study(study), METRICS["accuracy"], 0.003)


def change_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_yaml(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = make_study(tmp_path / "heads", HEADS[1:3], seeds=[0, 1], num_documents=60, documents_of_a_film=2)
    for file in folder.glob("*/result.json"):
        counts = {"validation": {"documents": 500}}
        recorded = {"train_documents": 4_500, "token_counts": counts, "hardware": "CPU, 2 threads, bf16"}
        versions = {"imdbcls": "0.2.0", "torch": "2.13.0", "transformers": "5.0.1"}
        change_json(
            file, {**recorded, "precision": "bf16", "versions": versions, "finished_at": "2026-11-28T13:15:02Z"}
        )
    for file in folder.glob("*/config.yaml"):
        data = {"name": "imdb", "source": {"_target_": "imdbcls.data.imdb.read_imdb"}, "truncation": "head"}
        backbone = {"freeze": False, "lora_rank": None}
        change_yaml(file, {"epochs": 3, "lr": 3e-5, "batch_size": 16, "data": data, "backbone": backbone})
    return folder


def test_facts_line_says_what_was_compared(study: Path) -> None:
    assert facts_line(compared(study)) == (
        "2 groups, 4 runs. Encoder: minilm (22.7M parameters, fine-tuned). Data: imdb, 4,500 training, 500 validation "
        "and 60 test documents (30 films); at most 256 tokens. Training: 3 epochs, lr 3e-05, batch size 16. CPU, 2 "
        "threads, bf16. imdbcls 0.2.0, torch 2.13.0, transformers 5.0.1. 28 Nov 2026."
    )


def test_differing_facts_are_listed_or_shown_as_a_range(study: Path) -> None:
    for seed, count in enumerate((100, 400)):
        change_json(study / f"cls-s{seed}/result.json", {"train_documents": count, "finished_at": "2026-12-01"})
    change_json(study / "lstm-s0/result.json", {"train_documents": 900})
    line = facts_line(compared(study))
    assert "imdb, 100 to 4,500 training, 500 validation" in line
    assert line.endswith(" 28 Nov 2026 to 1 Dec 2026.")


def test_facts_that_a_run_did_not_record_or_that_are_invalid_are_left_out(study: Path) -> None:
    wrong = {"train_documents": "many", "hardware": {"a": [1]}, "versions": 7, "finished_at": 12, "backbone": None}
    change_json(study / "cls-s0/result.json", {**wrong, "token_counts": [], "precision": "\x1b[31mred<b>"})
    change_yaml(study / "cls-s0/config.yaml", {"epochs": float("nan"), "lr": True, "batch_size": None, "data": "x"})
    change_yaml(study / "cls-s1/config.yaml", {"backbone": [1]})
    comparison = compared(study)
    assert facts_line(comparison) == (
        "2 groups, 4 runs. Data: 60 test documents (30 groups of documents that belong together); at most 256 tokens. "
        "bf16 or \\x1b[31mred<b>."
    )
    assert comparison.facts.keys() == {
        "encoder_parameters",
        "max_length",
        "precision",
        "test_documents",
        "test_clusters",
    }


def test_settings_are_shared_or_differ(study: Path) -> None:
    for seed in (0, 1):
        change_yaml(study / f"cls-s{seed}/config.yaml", {"lr": 1e-4, "extra": {"key": None}})
    comparison = compared(study)
    assert comparison.shared_settings["epochs"] == "3" and comparison.shared_settings["backbone.freeze"] == "false"
    order = [group.name for group in comparison.groups]
    lr = {"cls": "0.0001", "lstm": "3e-05"}
    extra = {"cls": "null", "lstm": ""}
    assert comparison.differing_settings["lr"] == tuple(lr[name.split()[0]] for name in order)
    assert comparison.differing_settings["extra.key"] == tuple(extra[name.split()[0]] for name in order)
    assert not {"seed", "study"} & {*comparison.shared_settings, *comparison.differing_settings}
