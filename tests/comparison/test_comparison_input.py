"""Untrusted studies: each bad run is reported in one sentence, and the valid runs are still compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from support.limits import HANG_SECONDS
from support.runs import ROOT
from support.studies import HEADS, make_study

import imdbcls
from imdbcls.compare import main
from imdbcls.comparison.naming import distinct_names, flatten, varied_choices
from imdbcls.comparison.run_files import BadRunError, sanitize
from imdbcls.comparison.slices import part_accuracy
from imdbcls.comparison.study import read_study
from imdbcls.finished_study import RecordedRun
from imdbcls.runs import read_predictions
from imdbcls.runtime.locks import file_lock


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "runs", heads=HEADS[:2], seeds=[0, 1], num_documents=200)


def change_result(run: Path, **changes: object) -> None:
    result = json.loads((run / "result.json").read_text()) | changes
    (run / "result.json").write_text(json.dumps({key: value for key, value in result.items() if value is not None}))


def change_column(run: Path, name: str, change: Callable[[pa.ChunkedArray], pa.Array]) -> None:
    file = run / "predictions" / "test.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, change(table[name])), file)


def link_elsewhere(run: Path) -> None:
    file = run / "predictions" / "test.parquet"
    outside = run.parent.parent / "secret.parquet"
    file.rename(outside)
    file.symlink_to(outside)


def replace_run_by_link(run: Path) -> None:
    outside = run.parent.parent / "elsewhere"
    run.rename(outside)
    run.symlink_to(outside)


def replace_by_pipe(run: Path) -> None:
    (run / "result.json").unlink()
    os.mkfifo(run / "result.json")


def replace_by_pickle(run: Path) -> None:
    (run / "predictions" / "test.parquet").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")


BAD = {
    "unfinished": (lambda run: change_result(run, status="interrupted"), "not finished (status 'interrupted')"),
    "no result": (lambda run: (run / "result.json").unlink(), "has no result.json"),
    "truncated result": (lambda run: (run / "result.json").write_text('{"status": "do'), "result.json is damaged"),
    "list as result": (lambda run: (run / "result.json").write_text("[1]"), "result.json is damaged"),
    "deeply nested result": (lambda run: (run / "result.json").write_text("[" * 200_000), "result.json is damaged"),
    "huge result": (lambda run: (run / "result.json").write_text(" " * (17 << 20)), "at most"),
    "binary result": (lambda run: (run / "result.json").write_bytes(b"\xff\xfe\x00"), "result.json is damaged"),
    "no seed": (lambda run: change_result(run, seed="zero"), "no valid 'seed'"),
    "no group": (lambda run: change_result(run, group_hash=None), "no valid 'group_hash'"),
    "no config": (lambda run: (run / "config.yaml").unlink(), "has no config.yaml"),
    "bad config": (lambda run: (run / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
    "config that runs code": (
        lambda run: (run / "config.yaml").write_text("!!python/object/apply:os.system ['exit 1']"),
        "config.yaml is damaged",
    ),
    "no predictions": (lambda run: shutil.rmtree(run / "predictions"), "has no test predictions"),
    "truncated predictions": (
        lambda run: (run / "predictions" / "test.parquet").write_bytes(b"PAR1 and nothing else"),
        "predictions are damaged",
    ),
    "a pickle": (replace_by_pickle, "predictions are damaged"),
    "link outside the study": (link_elsewhere, "link to a file outside the study"),
    "run is a link outside the study": (replace_run_by_link, "link to a file outside the study"),
    "pipe": (replace_by_pipe, "not a regular file"),
    "repeated ids": (
        lambda run: change_column(run, "id", lambda ids: pa.array(["same"] * len(ids))),
        "contain the same id twice",
    ),
    "very long ids": (
        lambda run: change_column(run, "id", lambda ids: pa.array(["x" * 10**6] * len(ids))),
        "more than 200 characters",
    ),
    "labels out of range": (lambda run: change_column(run, "label", lambda v: pc.add(v, 5)), "not all between 0 and 1"),
    "all probabilities zero": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[0.0, 0.0]] * len(v))),
        "do not sum to 1",
    ),
    "NaN probabilities": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[float("nan"), 1.0]] * len(v))),
        "do not sum to 1",
    ),
    "ragged probabilities": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[0.5, 0.5], [1.0]] * (len(v) // 2))),
        "one number per class in every row",
    ),
    "text labels": (
        lambda run: change_column(run, "label", lambda v: pa.array(["positive"] * len(v))),
        "predictions are damaged",
    ),
    "fractional labels": (
        lambda run: change_column(run, "label", lambda v: pa.array([0.5] * len(v))),
        "predictions are damaged",
    ),
    "missing labels": (
        lambda run: change_column(run, "label", lambda v: pa.array([None] * len(v), pa.int64())),
        "predictions are damaged",
    ),
    "different label names": (
        lambda run: change_result(run, label_names=["sad", "glad"]),
        "its labels (sad, glad) differ from the most common labels in this study (negative, positive)",
    ),
    "different split": (lambda run: change_result(run, split_hash="other"), "split differs"),
    "a copy": (lambda run: change_result(run, config_hash="cls0"), "a copy of another run"),
}


def compared(study: Path) -> dict[str, Any]:
    assert main([str(study)]) == 0
    return json.loads((study / "comparison.json").read_text())


def test_second_run_with_same_seed_is_left_out(study: Path) -> None:
    """`seed=0 data.order_seed=0,1` creates two runs with the same seed."""
    change_result(study / "cls-s1", seed=0)
    comparison = compared(study)
    (note,) = [note for note in comparison["notes"] if "cls-s1" in note]
    assert "left out: it has the same seed (0) as cls-s0" in note
    (cls,) = [group for group in comparison["groups"] if group["name"] == "cls"]
    assert cls["seeds"] == [0] and comparison["pairs"][0]["seeds_varied"] is False


def test_group_with_failed_run_is_flagged(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:2], seeds=[0, 1, 2], num_documents=200)
    change_result(study / "cls-s2", status="failed")
    comparison = compared(study)
    assert comparison["pairs"][0]["flags"] == ["1 of 3 runs of cls failed"]
    assert "[1 of 3 runs of cls failed]" in comparison["pairs"][0]["verdict"]
    assert comparison["headline"].endswith("Note: 1 of 3 runs of cls failed.")


def test_runs_that_w_and_b_stopped_are_named_and_flagged(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:3], seeds=[0, 1, 2], num_documents=200)
    for run in ("cls-s2", *(f"lstm-s{seed}" for seed in range(3))):
        change_result(study / run, status="stopped")
    comparison = compared(study)
    (note,) = [note for note in comparison["notes"] if "stopped" in note]
    assert note.startswith("cls-s2, lstm-s0, lstm-s1, lstm-s2 are left out: W&B stopped them early. ")
    assert "If W&B stopped the worse runs of cls, the remaining runs look better than all runs would." in note
    assert comparison["pairs"][0]["flags"] == ["W&B stopped 1 of 3 runs of cls"]
    assert comparison["headline"].endswith("Note: W&B stopped 1 of 3 runs of cls.")


def test_groups_of_which_no_run_is_left_are_not_biased(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:3], seeds=[0, 1], num_documents=200)
    for seed in range(2):
        change_result(study / f"lstm-s{seed}", status="stopped")
    comparison = compared(study)
    (note,) = [note for note in comparison["notes"] if "stopped" in note]
    assert note == "lstm-s0, lstm-s1 are left out: W&B stopped them early."
    assert comparison["pairs"][0]["flags"] == []


@pytest.mark.parametrize("same_splits", (True, None, False))
def test_encoder_that_may_have_learned_from_test_documents_is_noted(study: Path, same_splits: bool | None) -> None:
    change_result(study / "cls-s1", encoder_source={"run": "mlm-s0", "same_splits": same_splits})
    comparison = compared(study)
    notes = [note for note in comparison["notes"] if "encoder" in note]
    flag = "the encoder of cls may have learned from test documents"
    assert comparison["pairs"][0]["flags"] == ([flag] if same_splits is False else [])
    assert (f"[{flag}]" in comparison["pairs"][0]["verdict"]) == (same_splits is False)
    if same_splits:
        assert notes == []
    elif same_splits is None:
        assert notes == [
            "cls: the encoder was trained in an earlier run that did not record which documents it held out."
        ]
    else:
        assert notes == [
            "cls: the encoder was trained in an earlier run that held out other documents, so it may have learned from "
            "test documents. All verdicts on it include this caveat."
        ]


def test_different_code_hardware_or_precision_is_noted(study: Path) -> None:
    change_result(study / "cls-s1", git_commit="1" * 40, hardware="NVIDIA H200, bf16", precision="bf16")
    for run in ("cls-s0", "transformer-s0", "transformer-s1"):
        change_result(study / run, hardware="CPU, 2 threads, fp32", precision="fp32")
    notes = "\n".join(compared(study)["notes"])
    assert f"differ in git_commit ({'0' * 40} in 3 runs; {'1' * 40} in 1 run): the code may differ." in notes
    assert "differ in precision (fp32 in 3 runs; bf16 in 1 run)" in notes
    assert (
        "differ in hardware (CPU, 2 threads, fp32 in 3 runs; NVIDIA H200, bf16 in 1 run): do not compare times" in notes
    )


def test_different_kernels_are_noted_for_same_encoder_and_precision(study: Path) -> None:
    """A note names kernels that differ within a group, or between groups with the same encoder and precision."""

    def notes(**paths: str | None) -> str:
        for run in study.iterdir():
            kernels = paths.get(run.name.partition("-")[0], paths.get(run.name.replace("-", "_"), "avx512_bf16"))
            recorded = None if kernels is None else {"kernels": kernels, "instructions": "AVX512"}
            if run.is_dir() and (run / "result.json").exists():
                change_result(run, environment=recorded)
        return "\n".join(note for note in compared(study)["notes"] if "different kernels" in note)

    assert notes() == "" and notes(cls=None, transformer=None) == ""
    assert notes(cls="pytorch") == (
        "The groups were computed with different kernels (cls with pytorch on AVX512; transformer with avx512_bf16 "
        "on AVX512), so the last digits of their metrics may differ. Do not compare their times and latencies."
    )
    assert notes(cls_s1="pytorch") == (
        "cls was computed with different kernels (1 run with avx512_bf16 on AVX512; 1 run with pytorch on AVX512), so "
        "its variation over seeds includes rounding differences."
    )
    assert "1 run with unrecorded kernels" in notes(cls_s1=None)
    assert notes(cls="pytorch", transformer="avx512_bf16 and pytorch") == ""
    for seed in (0, 1):
        change_result(study / f"cls-s{seed}", precision="fp32")
    assert notes(cls="pytorch") == ""
    change_result(study / "cls-s0", environment=["\x1b[2J"])
    change_result(study / "cls-s1", environment={"kernels": {"\x1b[2J": 1}, "instructions": "x" * 5000})
    (note,) = [note for note in compared(study)["notes"] if "different kernels" in note]
    assert "\x1b" not in note and len(note) < 500


def test_recorded_metric_decides_unless_another_is_chosen(study: Path) -> None:
    def decided_by(*options: str) -> tuple[str, str]:
        assert main([str(study), *options]) == 0
        comparison = json.loads((study / "comparison.json").read_text())
        return comparison["metric"], "\n".join(note for note in comparison["notes"] if "best epochs" in note)

    runs = [f"{head}-s{seed}" for head in ("cls", "transformer") for seed in (0, 1)]
    assert decided_by() == ("test/accuracy", "")
    for run in runs:
        change_result(study / run, metric="loss")
    assert imdbcls.compare_runs(study).metric.name == "loss"
    assert decided_by() == ("test/loss", "") and decided_by("--metric", "f1") == ("test/f1", "")
    change_result(study / "cls-s1", metric="f1")
    assert decided_by() == (
        "test/accuracy",
        "Different metrics selected the best epochs of the runs (loss in 3 runs; f1 in 1 run). Without --metric, "
        "the metric of the study's plan decides the comparison, or accuracy if there is no plan.",
    )
    assert decided_by("--metric", "loss")[0] == "test/loss"
    for run in runs:
        change_result(study / run, metric="\x1b[2J<b>")
    name, note = decided_by()
    assert (
        name == "test/accuracy"
        and note.startswith("This version of imdbcls does not know the metric")
        and "\x1b" not in note
    )
    change_result(study / "cls-s1", metric=["loss"])
    assert decided_by()[0] == "test/accuracy"


def test_config_without_the_key_metric_means_accuracy(study: Path) -> None:
    """Configs of earlier versions lack the key. A missing key is not a difference between groups."""
    for seed in (0, 1):
        config = study / f"cls-s{seed}" / "config.yaml"
        config.write_text(config.read_text() + "metric: accuracy\n")
    assert not [note for note in compared(study)["notes"] if "more than the head" in note]
    for seed in (0, 1):
        config = study / f"cls-s{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("metric: accuracy", "metric: f1"))
    (note,) = [note for note in compared(study)["notes"] if "more than the head" in note]
    assert "metric (f1, accuracy)" in note


def test_shared_order_seed_is_noted(study: Path) -> None:
    for seed in (0, 1):
        config = study / f"cls-s{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("order_seed: 1", "order_seed: 0"))
    assert [
        note for note in compared(study)["notes"] if note.startswith("cls: some runs have the same data.order_seed")
    ]


def test_config_differences_other_than_head_are_noted(study: Path) -> None:
    for seed in (0, 1):
        config = study / f"cls-s{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("lr: 3.0e-05", "lr: 0.01") + "optimizer: {lr: 0.01}\n")
    (note,) = [note for note in compared(study)["notes"] if "differ in more than the head" in note]
    assert "lr (0.01, 3e-05)" in note and note.count("lr (") == 1
    document = compared(study)
    assert {group["name"] for group in document["groups"]} == {"transformer lr=3e-05", "cls lr=0.01"}
    assert {group["name"]: group["varied"] for group in document["groups"]}["cls lr=0.01"] == {"lr": "0.01"}
    assert document["cautions"] == [note] and document["headline"].endswith(note) and note in document["paragraph"]


def test_group_names_show_every_choice_in_which_the_groups_differ(study: Path) -> None:
    """Two encoders always differ in many keys, so a group name shows only which encoder was chosen."""
    for seed in (0, 1):
        folder = study / f"cls-s{seed}"
        change_result(folder, backbone="roberta-base")
        config = (folder / "config.yaml").read_text().replace("max_length: 256", "max_length: 512")
        (folder / "config.yaml").write_text(f"{config}epochs: 5\nbackbone: {{name: roberta-base, layers: 12}}\n")
        other = study / f"transformer-s{seed}" / "config.yaml"
        other.write_text(f"{other.read_text()}epochs: 3\nbackbone: {{name: minilm, layers: 6}}\n")
    assert {group["name"] for group in compared(study)["groups"]} == {
        "cls backbone=roberta-base epochs=5 max_length=512",
        "transformer backbone=minilm epochs=3 max_length=256",
    }


def test_run_without_a_result_says_whether_it_is_training_or_was_killed(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a run is not finished, the headline says that the comparison is an early look."""
    (study / "cls-s1" / "result.json").unlink()
    with file_lock(study / "cls-s1" / ".lock"):
        (note,) = [note for note in compared(study)["notes"] if note.startswith("cls-s1")]
    assert note.startswith("cls-s1 is left out: it has no result.json: it is still training")
    overrides = {"hydra": {"overrides": {"task": ["head=cls,transformer", "seed=0,1"]}}}
    (study / "multirun.yaml").write_text(yaml.safe_dump(overrides))
    capsys.readouterr()
    document = compared(study)
    (note,) = [note for note in document["notes"] if note.startswith("cls-s1")]
    assert "it was killed" in note and "imdbcls.train --multirun head=cls,transformer seed=0,1" in note
    (early,) = document["cautions"]
    assert early.startswith("1 run is not finished, so this is an early look") and early in document["headline"]
    assert early in " ".join(capsys.readouterr().out.split()) and early in document["paragraph"]
    change_result(study / "transformer-s1", status="failed", error="ValueError: no")
    (note,) = [note for note in compared(study)["notes"] if note.startswith("transformer-s1")]
    assert "(status 'failed': ValueError: no); to train it again, repeat its training command" in note


def test_group_names_show_keys_of_two_sections_with_the_same_last_part() -> None:
    """No group has both keys, so neither key is a copy of the other."""
    configs = ({"loss": {"gamma": 1}}, {"schedule": {"gamma": 2}}, {"schedule": {"gamma": 3}})
    runs = [RecordedRun({"head": "cls", "group_hash": "1a2b"}, config) for config in configs]
    assert distinct_names(runs, varied_choices(runs)) == ["cls gamma=1", "cls schedule.gamma=2", "cls schedule.gamma=3"]


def test_group_names_contain_each_choice_once(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:1], seeds=[0, 1], num_documents=200)
    change_result(study / "transformer-s1", group_hash="another")
    for seed, lr in ((0, 0.01), (1, 0.02)):
        config = study / f"transformer-s{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("lr: 3.0e-05", f"lr: {lr}") + f"optimizer: {{lr: {lr}}}\n")
    assert {group["name"] for group in compared(study)["groups"]} == {"transformer lr=0.01", "transformer lr=0.02"}


def test_constant_models_are_noted_and_not_equivalent(study: Path) -> None:
    """Each run predicts one class for all documents. The class differs between seeds, and all accuracies are equal."""
    labels = pq.read_table(study / "cls-s0" / "predictions" / "test.parquet")["label"].to_pylist()
    for head, constants in (("cls", (0, 1)), ("transformer", (1, 0))):
        for seed, constant in enumerate(constants):
            run = study / f"{head}-s{seed}"
            change_column(run, "label", lambda v: pa.array([row % 2 for row in range(len(v))]))
            change_column(run, "prediction", lambda v, c=constant: pa.array([c] * len(v)))
    comparison = compared(study)
    assert len(labels) == 200 and comparison["groups"][0]["metrics"]["test/accuracy"]["mean"] == 0.5
    for name in ("cls", "transformer"):
        assert f"{name}: in 2 of 2 runs, all documents get the same predicted class." in comparison["notes"]
    accuracy = comparison["groups"][0]["metrics"]["test/accuracy"]
    assert accuracy["low"] < 0.45 and accuracy["high"] > 0.55, "the variance between seeds has a floor"
    assert [group["num_collapsed"] for group in comparison["groups"]] == [2, 2]
    change_column(study / "cls-s1", "prediction", lambda v: pa.array([0] * len(v)))
    change_column(study / "transformer-s0", "prediction", lambda v: pa.array([1] * len(v)))
    change_column(study / "transformer-s1", "prediction", lambda v: pa.array([1] * len(v)))
    (pair,) = compared(study)["pairs"]
    assert pair["difference"] == 0 and pair["high"] - pair["low"] > 0.1 and not pair["equivalent"]


def test_error_for_other_folder_names_the_study_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study / "cls-s0")]) == 2
    assert f"It is a run folder. Pass its study folder, {study.resolve()}." in capsys.readouterr().err
    assert main([str(study.parent)]) == 2
    assert f"Pass one of the study folders in it: {study.name}." in capsys.readouterr().err


def test_closed_stdout_exits_silently_and_writes_files(study: Path) -> None:
    command = (
        f"{sys.executable} -m imdbcls.compare {study} | true; exit ${{PIPESTATUS[0]}}"  # `true` exits without reading
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    # One line is allowed: the warning that document texts cannot be read.
    assert done.returncode == 141 and done.stderr.count("\n") <= 1, done.stderr
    assert (study / "comparison.html").is_file()


def test_clusters_change_intervals_and_p_values(tmp_path: Path) -> None:
    """Clusters affect every interval and p-value. Runs without clusters use the clusters of other runs."""
    single = make_study(tmp_path / "single", heads=HEADS[:2], num_documents=400)
    films = make_study(tmp_path / "films", heads=HEADS[:2], num_documents=400, documents_of_a_film=40)
    mixed = make_study(tmp_path / "mixed", heads=HEADS[:2], num_documents=400, documents_of_a_film=40)
    for seed in (0, 1, 2):
        shutil.copytree(single / f"cls-s{seed}", mixed / f"cls-s{seed}", dirs_exist_ok=True)
    found = {study.name: compared(study) for study in (single, films, mixed)}
    assert [found[name]["groups"][0]["num_clusters"] for name in ("single", "films")] == [None, 10]
    assert "400 test documents (10 groups of documents that belong together)" in (films / "comparison.html").read_text()
    pairs = {name: comparison["pairs"][0] for name, comparison in found.items()}
    assert pairs["films"]["difference"] == pairs["single"]["difference"] == pairs["mixed"]["difference"]
    for key in ("low", "high", "standard_error", "p_permutation"):
        assert pairs["films"][key] == pytest.approx(pairs["mixed"][key]) and pairs["films"][key] != pairs["single"][key]
    for part in ("length", "class"):
        widths = [
            [p["high"] - p["low"] for p in found[name]["groups"][0]["parts"][part] if p["mean"] is not None]
            for name in ("single", "films")
        ]
        assert widths[0] != widths[1]


def test_parts_with_different_documents_show_counts_per_group(tmp_path: Path) -> None:
    """One group has max_length 256 and the other 128, so different documents are truncated."""
    study = make_study(tmp_path / "runs", heads=HEADS[:1], num_documents=400)
    make_study(study, heads=HEADS[1:2], num_documents=400, max_length=128)
    assert main([str(study)]) == 0
    lines = (study / "comparison.md").read_text().splitlines()
    within, *truncated = [line for line in lines if line.startswith(("| within max", "| truncated to"))]
    assert re.fullmatch(r"\| within max\\_length \| \u2013 \| \d\d\.\d\d \(\d+\) \| \d\d\.\d\d \(\d+\) \|", within)
    assert {line.split(" | ")[0] for line in truncated} == {"| truncated to 256", "| truncated to 128"}


def test_part_without_mistakes_has_an_interval(study: Path) -> None:
    group = read_study(study).groups[0]
    correct = [replace(run.predictions, predicted=run.predictions.true_labels) for run in group.runs]
    runs = tuple(replace(run, predictions=each) for run, each in zip(group.runs, correct, strict=True))
    accuracy = part_accuracy(replace(group, runs=runs), "a part", np.arange(200) < 12).accuracy
    assert accuracy is not None and accuracy.mean == accuracy.high == 1 and 0.7 < accuracy.low < 0.8


@pytest.mark.parametrize("name", list(BAD))
def test_bad_run_is_left_out_and_others_are_compared(
    name: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, sentence = BAD[name]
    damage(study / "cls-s1")
    notes = [note for note in read_study(study).left_out if note.startswith("cls-s1 is left out: ")]
    assert len(notes) == 1 and sentence in notes[0] and notes[0].count("\n") == 0
    assert main([str(study), "--full"]) == 0
    out = capsys.readouterr().out
    assert "transformer" in out and "cls-s1 is left out" in out and "Traceback" not in out


def test_accuracy_that_contradicts_predictions_is_noted(study: Path) -> None:
    change_result(study / "cls-s0", **{"test/accuracy": 0.999})
    assert any("cls-s0: the accuracy in result.json is 0.9990" in note for note in compared(study)["notes"])


def test_invalid_values_in_results_are_ignored(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_result(study / "cls-s0", train_seconds="fast", latency_ms=[1], peak_memory_mb=10**400, max_length="long")
    (study / "cls-s0" / "metrics.jsonl").write_text('{"epoch": 1, "val/accuracy": NaN}\n{"epoch": "x"}\n[]\n{"ep')
    (study / "cls-s1" / "metrics.jsonl").unlink()
    assert main([str(study)]) == 0
    assert json.loads((study / "comparison.json").read_text())["groups"]


def test_folder_without_finished_runs_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    unfinished = make_study(tmp_path / "unfinished", heads=HEADS[:1], seeds=[0], num_documents=50)
    change_result(unfinished / "transformer-s0", status="failed")
    for folder, sentence in (
        (tmp_path / "empty", "contains no run folder"),
        (unfinished, "transformer-s0 is left out: it is not finished (status 'failed')"),
        (tmp_path / "nowhere", "is neither a folder nor a file"),
    ):
        assert main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_too_many_documents_are_refused_before_reading(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_predictions, "MAX_DOCUMENTS", 100)
    with pytest.raises(BadRunError, match="at most 100 are allowed"):
        read_study(study)


def test_control_characters_never_reach_the_terminal(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in study.glob("cls-*"):
        change_result(run, head="\x1b[31mred\x1b]0;title\x07\u202e", label_names=["a\nb", "c\x00d"])
    for run in study.glob("transformer-*"):
        change_result(run, label_names=["a\nb", "c\x00d"])
    assert main([str(study)]) == 0
    out = capsys.readouterr().out
    assert not any(character in out for character in "\x1b\x07\u202e\x00")
    assert sanitize("a\tb\u2028c") == "a b\\u2028c"
    joiner = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # a Persian word with a zero-width non-joiner
    assert sanitize(joiner) == joiner


def test_expansion_of_yaml_aliases_is_bounded() -> None:
    config: dict[str, object] = {"leaf": 1}
    for level in range(60):
        config = {f"left{level}": config, f"right{level}": config}
    assert sum(1 for _ in flatten(config)) <= 2_000


def test_links_in_output_folder_are_replaced_not_followed(study: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (study / "comparison.html").symlink_to(victim)
    (study / "comparison_figures").symlink_to(tmp_path / "elsewhere")
    assert main([str(study)]) == 0
    assert victim.read_text() == "mine" and not list((tmp_path / "elsewhere").iterdir())


def test_torch_and_wandb_are_not_imported(study: Path) -> None:
    check = (
        "import sys, imdbcls.compare as c; c.main(sys.argv[1:]); print(sorted({'torch', 'wandb'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", check, str(study)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=HANG_SECONDS)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr


def test_clusters_come_from_any_run_that_recorded_them(tmp_path: Path) -> None:
    """Runs may lack clusters, and groups may have different clusters. The order of the groups does not matter."""
    study = make_study(tmp_path / "runs", heads=HEADS[:2], num_documents=400, documents_of_a_film=40)
    complete = compared(study)["pairs"][0]
    file = study / "cls-s0" / "predictions" / "test.parquet"
    pq.write_table(pq.read_table(file).drop_columns("cluster"), file)
    comparison = compared(study)
    assert comparison["pairs"][0]["standard_error"] == complete["standard_error"]
    assert any(
        note.startswith("Some runs did not record which documents belong together") for note in comparison["notes"]
    )
    for head in ("cls", "transformer"):
        finer = shutil.copytree(study, tmp_path / head)
        for seed in (0, 1, 2):
            column = pa.array([f"film {row // 5}" for row in range(400)])
            file = finer / f"{head}-s{seed}" / "predictions" / "test.parquet"
            table = pq.read_table(file)
            table = table.drop_columns("cluster") if "cluster" in table.column_names else table
            pq.write_table(table.append_column("cluster", column), file)
        assert compared(finer)["pairs"][0]["standard_error"] == pytest.approx(complete["standard_error"])


def test_pair_with_a_single_cluster_is_not_tested(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:2], num_documents=300, documents_of_a_film=300)
    (pair,) = compared(study)["pairs"]
    assert (
        pair["equivalent"] is None
        and not pair["significant"]
        and "they share only one document or one cluster" in pair["problem"]
    )


def test_long_and_unusual_cluster_names_are_accepted(study: Path) -> None:
    for run in study.glob("*-s*"):
        file = run / "predictions" / "test.parquet"
        table = pq.read_table(file)
        names = ["x" * 1_000_000 if row < 5 else f"{row % 50}\0" if row % 2 else f"{row % 50}" for row in range(200)]
        pq.write_table(table.append_column("cluster", pa.array(names)), file)
    assert compared(study)["groups"][0]["num_clusters"] == 51


@pytest.mark.parametrize("change", [{"config_hash": ["a"]}, {"split_hash": {"a": 1}}])
def test_hash_that_is_not_a_string_is_refused(change: dict[str, Any], study: Path) -> None:
    change_result(study / "cls-s1", **change)
    assert any("cls-s1 is left out" in note and "no valid" in note for note in compared(study)["notes"])


def test_huge_values_are_ignored(study: Path) -> None:
    change_result(study / "cls-s1", train_seconds=1e308, **{"val/accuracy": 1e308})
    (study / "cls-s1" / "metrics.jsonl").write_text('{"epoch": 1e308, "val/accuracy": 0.5}\n')
    compared(study)
