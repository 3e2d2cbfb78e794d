"""A stranger's study: every bad run gets one sentence, and the sound ones are still compared."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from make_study import HEADS, make_study

from imdbcls.compare import main
from imdbcls.comparison import run_files
from imdbcls.comparison.groups import leaves, read_study
from imdbcls.comparison.run_files import BadRun, plain


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


def pickled(run: Path) -> None:
    (run / "predictions" / "test.parquet").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")


BAD = {
    "unfinished": (lambda run: change_result(run, status="interrupted"), "not finished (status 'interrupted')"),
    "no result": (lambda run: (run / "result.json").unlink(), "has no result.json"),
    "half a result": (lambda run: (run / "result.json").write_text('{"status": "do'), "result.json is damaged"),
    "a list": (lambda run: (run / "result.json").write_text("[1]"), "result.json is damaged"),
    "too deep": (lambda run: (run / "result.json").write_text("[" * 200_000), "result.json is damaged"),
    "too long": (lambda run: (run / "result.json").write_text(" " * (17 << 20)), "at most"),
    "bytes": (lambda run: (run / "result.json").write_bytes(b"\xff\xfe\x00"), "result.json is damaged"),
    "no seed": (lambda run: change_result(run, seed="zero"), "no usable 'seed'"),
    "no group": (lambda run: change_result(run, group_hash=None), "no usable 'group_hash'"),
    "no config": (lambda run: (run / "config.yaml").unlink(), "has no config.yaml"),
    "bad config": (lambda run: (run / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
    "config with code": (
        lambda run: (run / "config.yaml").write_text("!!python/object/apply:os.system ['exit 1']"),
        "config.yaml is damaged",
    ),
    "no predictions": (lambda run: shutil.rmtree(run / "predictions"), "has no test predictions"),
    "half predictions": (
        lambda run: (run / "predictions" / "test.parquet").write_bytes(b"PAR1 and then nothing"),
        "predictions are damaged",
    ),
    "a pickle": (pickled, "predictions are damaged"),
    "link out": (link_elsewhere, "link to a file outside the study"),
    "run linked out": (replace_run_by_link, "link to a file outside the study"),
    "pipe": (replace_by_pipe, "no regular file"),
    "twice the same id": (
        lambda run: change_column(run, "id", lambda ids: pa.array(["same"] * len(ids))),
        "name a document twice",
    ),
    "endless ids": (
        lambda run: change_column(run, "id", lambda ids: pa.array(["x" * 10**6] * len(ids))),
        "more than 200 characters",
    ),
    "labels out of range": (lambda run: change_column(run, "label", lambda v: pc.add(v, 5)), "not classes 0 to 1"),
    "probabilities of nothing": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[0.0, 0.0]] * len(v))),
        "sum of 1",
    ),
    "not numbers": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[float("nan"), 1.0]] * len(v))),
        "sum of 1",
    ),
    "ragged": (
        lambda run: change_column(run, "probabilities", lambda v: pa.array([[0.5, 0.5], [1.0]] * (len(v) // 2))),
        "same number of classes",
    ),
    "words for labels": (
        lambda run: change_column(run, "label", lambda v: pa.array(["positive"] * len(v))),
        "predictions are damaged",
    ),
    "labels in between": (
        lambda run: change_column(run, "label", lambda v: pa.array([0.5] * len(v))),
        "predictions are damaged",
    ),
    "missing labels": (
        lambda run: change_column(run, "label", lambda v: pa.array([None] * len(v), pa.int64())),
        "predictions are damaged",
    ),
    "other labels": (
        lambda run: change_result(run, label_names=["sad", "glad"]),
        "its labels (sad, glad) are not the others' (negative, positive)",
    ),
    "other split": (lambda run: change_result(run, split_hash="other"), "split differs"),
    "a copy": (lambda run: change_result(run, config_hash="cls0"), "a copy of another run"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_run_is_named_and_the_others_are_compared(
    name: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, sentence = BAD[name]
    damage(study / "cls-s1")
    notes = [note for note in read_study(study).notes if note.startswith("cls-s1 is left out: ")]
    assert len(notes) == 1 and sentence in notes[0] and notes[0].count("\n") == 0
    assert main([str(study)]) == 0
    out = capsys.readouterr().out
    assert "transformer" in out and "cls-s1 is left out" in out and "Traceback" not in out


def test_predictions_that_do_not_fit_result_json_are_said(study: Path) -> None:
    change_result(study / "cls-s0", **{"test/accuracy": 0.999})
    assert any("cls-s0: result.json says accuracy 0.9990" in note for note in read_study(study).notes)


def test_strange_figures_become_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_result(study / "cls-s0", train_seconds="fast", latency_ms=[1], peak_memory_mb=10**400, max_length="long")
    (study / "cls-s0" / "metrics.jsonl").write_text('{"epoch": 1, "val/accuracy": NaN}\n{"epoch": "x"}\n[]\n{"ep')
    (study / "cls-s1" / "metrics.jsonl").unlink()
    assert main([str(study)]) == 0
    assert json.loads((study / "comparison.json").read_text())["groups"]


def test_an_empty_study_an_unfinished_one_and_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    unfinished = make_study(tmp_path / "unfinished", heads=HEADS[:1], seeds=[0], num_documents=50)
    change_result(unfinished / "transformer-s0", status="failed")
    for folder, sentence in (
        (tmp_path / "empty", "holds no run folder"),
        (unfinished, "transformer-s0 is left out: it is not finished (status 'failed')"),
        (tmp_path / "nowhere", "is not a folder"),
    ):
        assert main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_too_many_documents_are_refused_before_they_are_read(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "MAX_DOCUMENTS", 100)
    with pytest.raises(BadRun, match="at most 100 are read"):
        read_study(study)


def test_control_characters_never_reach_the_terminal(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in study.glob("cls-*"):
        change_result(run, head="\x1b[31mred\x1b]0;title\x07\u202e", label_names=["a\nb", "c\x00d"])
    for run in study.glob("transformer-*"):
        change_result(run, label_names=["a\nb", "c\x00d"])
    assert main([str(study)]) == 0
    out = capsys.readouterr().out
    assert not any(character in out for character in "\x1b\x07\u202e\x00")
    assert plain("a\tb\u2028c") == "a b c"


def test_yaml_aliases_cannot_unfold_endlessly() -> None:
    config: dict[str, object] = {"leaf": 1}
    for level in range(60):
        config = {f"left{level}": config, f"right{level}": config}
    assert sum(1 for _ in leaves(config)) <= 2_000


def test_output_links_are_replaced_not_followed(study: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (study / "comparison.html").symlink_to(victim)
    (study / "comparison_figures").symlink_to(tmp_path / "elsewhere")
    assert main([str(study)]) == 0
    assert victim.read_text() == "mine" and not list((tmp_path / "elsewhere").iterdir())


def test_nothing_heavy_or_online_is_imported(study: Path) -> None:
    check = (
        "import sys, imdbcls.compare as c; c.main(sys.argv[1:]); print(sorted({'torch', 'wandb'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", check, str(study)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr
