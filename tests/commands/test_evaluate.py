"""`python -m imdbcls.evaluate` reproduces the recorded metrics to the last digit, and accepts only the run's files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.runs import Launch

pytestmark = pytest.mark.slow
BRIER = "test/brier"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may modify."""
    return shutil.copytree(finished, tmp_path / finished.name)


@pytest.mark.parametrize(("split", "prefix"), [("test", "test/"), ("validation", "val/")])
def test_metrics_are_reproduced_to_the_last_digit(
    split: str, prefix: str, launch: Launch, finished: Path, tmp_path: Path
) -> None:
    done = launch(tmp_path, "evaluate", str(finished), "--split", split)
    figures = json.loads(done.stdout)
    recorded = json.loads((finished / "result.json").read_text())
    assert figures.keys() == {f"{prefix}{name}" for name in ("accuracy", "f1", "auroc", "loss", "brier", "ece")}
    assert figures == {key: recorded[key] for key in figures}
    assert done.stderr.splitlines()[-1] == "The metrics equal the recorded ones to the last digit."
    assert os.listdir(tmp_path) == []


def test_run_of_an_earlier_version_is_evaluated(launch: Launch, copied: Path, tmp_path: Path) -> None:
    """It has no `metric` in its config, and no Brier score in its result."""
    config, result = copied / "config.yaml", copied / "result.json"
    assert "metric: accuracy\n" in config.read_text()
    config.write_text(config.read_text().replace("metric: accuracy\n", ""))
    earlier = {key: value for key, value in json.loads(result.read_text()).items() if key not in ("metric", BRIER)}
    result.write_text(json.dumps(earlier))
    done = launch(tmp_path, "evaluate", str(copied))
    assert json.loads(done.stdout).keys() - earlier.keys() == {BRIER}
    assert done.stderr.splitlines()[-2:] == [
        f"The run did not record {BRIER}.",
        "The metrics equal the recorded ones to the last digit.",
    ]


def alter_weights(run: Path) -> None:
    """Change one number of one tensor, without changing the size of the file."""
    path = run / "checkpoints" / "best" / "model.safetensors"
    tensors = load_file(path)
    tensors["head.output.bias"][0] += 1e-3
    save_file(tensors, path)


def alter_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "split_hash": "0" * 16}))


def fail(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "status": "failed"}))


def change_head(run: Path) -> None:
    """Replace the config by that of a run with another head, whose weights have different names."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("bidirectional: false", "bidirectional: true"))


def name_foreign_code(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("imdbcls.data.sample.read_sample", "os.getcwd"))


ALTERATIONS: list[tuple[Callable[[Path], object], str]] = [
    (alter_weights, "differs in size or sha256"),
    (lambda run: (run / "checkpoints" / "best" / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda run: shutil.rmtree(run / "checkpoints" / "best"), "best"),
    (alter_result, "The documents differ from the run's documents: the split hash"),
    (fail, "does not contain a finished run"),
    (lambda run: (run / "result.json").unlink(), "result.json"),
    (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
    (change_head, "model.safetensors does not fit the model: head.backward_lstm"),
    (name_foreign_code, "data.source._target_=os.getcwd is refused"),
]


@pytest.mark.parametrize(("alter", "sentence"), ALTERATIONS)
def test_modified_run_is_refused(
    alter: Callable[[Path], object], sentence: str, launch: Launch, copied: Path, tmp_path: Path
) -> None:
    alter(copied)
    done = launch(tmp_path, "evaluate", copied.name, expect=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("imdbcls: ") and sentence in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("nowhere", "nowhere is not a folder."),
        ("file.txt", "file.txt is not a folder."),
        (".", "config.yaml is missing"),
    ],
)
def test_folder_without_a_run_is_refused(wrong: str, sentence: str, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("no run")
    done = launch(tmp_path, "evaluate", wrong, expect=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("imdbcls: ") and sentence in line


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_study_folder_error_lists_its_runs(module: str, launch: Launch, tmp_path: Path) -> None:
    study = tmp_path / "runs" / "heads"
    for name in ("cls-s0-1", "max-s0-2", "an\x1b[2Jescape"):
        (study / name).mkdir(parents=True)
        (study / name / "config.yaml").write_text("")
    (study / "wandb").mkdir()
    (study / "wandb" / "latest-run").symlink_to(study)
    done = launch(tmp_path, module, "runs/heads", *(["text"] if module == "predict" else []), expect=2)
    (line,) = done.stderr.splitlines()
    assert "runs/heads is a study folder" in line and line.endswith("one of its runs (cls-s0-1, max-s0-2).")
    for number in range(30):
        (study / f"lstm-s{number}").mkdir()
        (study / f"lstm-s{number}" / "config.yaml").write_text("")
    done = launch(tmp_path, module, "runs/heads", *(["text"] if module == "predict" else []), expect=2)
    assert done.stderr.rstrip().endswith(" and 22 more).")


def test_unknown_split_error_lists_the_splits(launch: Launch, tmp_path: Path) -> None:
    done = launch(tmp_path, "evaluate", "nowhere", "--split", "train", expect=2)
    assert "'train'" in done.stderr and "test" in done.stderr and "validation" in done.stderr


def test_file_argument_error_suggests_the_command(launch: Launch, tmp_path: Path) -> None:
    for arguments in (("some/run", "other.csv"), ("some/run", "--split", "test", "other.csv")):
        done = launch(tmp_path, "evaluate", *arguments, expect=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith("imdbcls: other.csv: evaluate accepts run folders")
        assert line.endswith("use: python -m imdbcls.predict some/run --file FILE")
