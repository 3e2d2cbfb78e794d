"""`python -m imdbcls.evaluate` reproduces the recorded metrics to the last digit, and refuses changed files."""

import io
import json
import os
import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sklearn.metrics import classification_report, confusion_matrix
from support.runs import Launch

import imdbcls
from imdbcls.evaluate import argument_parser, evaluate_file, require_options
from imdbcls.models.scores import report
from imdbcls.predict import argument_parser as predict_parser
from imdbcls.runs.files import json_text

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
    """A run of an earlier version has no `metric` in its config, and no Brier score in its result."""
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
    """Change the head in the config, so that the names of its weights no longer match."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("bidirectional: false", "bidirectional: true"))


def name_foreign_code(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("imdbcls.data.sample.read_sample", "os.getcwd"))


ALTERATIONS: list[tuple[Callable[[Path], object], str]] = [
    (alter_weights, "is damaged: its size or sha256 differs"),
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
    *messages, line = done.stderr.splitlines()
    assert messages in ([], [f"{copied.name}: loading the documents and the model"])
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


@pytest.mark.parametrize("parser", [argument_parser, predict_parser])
def test_a_command_without_a_run_asks_for_the_run(
    parser: Callable[[], ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_intermixed_args([])
    assert capsys.readouterr().err.endswith("the following arguments are required: run\n")


def test_unknown_split_error_lists_the_splits(launch: Launch, tmp_path: Path) -> None:
    done = launch(tmp_path, "evaluate", "nowhere", "--split", "train", expect=2)
    assert "'train'" in done.stderr and "test" in done.stderr and "validation" in done.stderr


def test_file_argument_error_suggests_the_command(launch: Launch, tmp_path: Path) -> None:
    for arguments in (("some/run", "other.csv"), ("some/run", "--split", "test", "other.csv")):
        done = launch(tmp_path, "evaluate", *arguments, expect=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith("imdbcls: other.csv is not a run folder.")
        assert line.endswith("use: python -m imdbcls.evaluate some/run --file other.csv")


# --- a file of labelled documents ---

REVIEWS = [("a fine film", "1"), ("dull and long", "0"), ("what a waste", "0"), ("I loved it", "1"), ("so-so", "0")]


def write_reviews(path: Path, extra: str = "") -> Path:
    rows = "".join(f"{text};{label}\n" for text, label in REVIEWS)
    path.write_text(f"Größe;label\n{rows}{extra}", encoding="latin-1")
    return path


def test_a_labelled_file_is_scored_as_by_sklearn(
    launch: Launch, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_reviews(tmp_path / "new.csv", extra=";1\n")
    options = ("--text-column", "Größe", "--encoding", "latin-1", "--map", "0=negative", "--map", "1=positive")
    done = launch(tmp_path, "evaluate", str(finished), "--file", path.name, *options, "--skip-empty")
    found = json.loads(done.stdout)
    run = imdbcls.load_run(finished)
    predicted = run.predict([text for text, _ in REVIEWS]).names
    true = [("negative", "positive")[int(label)] for _, label in REVIEWS]
    expected = classification_report(true, predicted, labels=run.label_names, output_dict=True, zero_division=0.0)
    for name in run.label_names:
        scores = {key: expected[name][key] for key in ("precision", "recall")}
        scores |= {"f1": expected[name]["f1-score"], "documents": expected[name]["support"]}
        assert found["classes"][name] == pytest.approx(scores)
    for name in ("macro", "weighted"):
        assert found["averages"][name]["f1"] == pytest.approx(expected[f"{name} avg"]["f1-score"])
    assert found["confusion_matrix"] == {
        "labels": list(run.label_names),
        "counts": confusion_matrix(true, predicted, labels=run.label_names).tolist(),
    }
    assert found["documents"] == 5 and found["accuracy"] == np.mean(np.array(true) == predicted)
    assert "1 of 6 rows are skipped: 1 with no text in 'Größe' (--skip-empty)" in done.stderr
    classes = {"0": "negative", "1": "positive"}
    scores = run.evaluate(path, text_column=["Größe"], encoding="latin-1", skip_empty=True, class_of_label=classes)
    messages = capsys.readouterr().err
    assert "1 of 6 rows are skipped: 1 with no text in 'Größe'" in messages and "semicolon" in messages
    assert json.loads(json_text(scores.plain())) == {key: found[key] for key in scores.plain()}
    text = "\n".join(report(scores, 80, calibrated=False))
    assert all(len(line) <= 80 for line in text.splitlines()) and "Confusion matrix: true classes in rows" in text
    assert "before calibration, as in result.json" in text and found["calibrated"] is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "line 1: byte 0xf6 at offset 2 is not UTF-8"),
        (["--encoding=latin-1"], "has no column 'text' (--text-column); it has 'Größe', 'label'"),
        (
            ["--encoding=latin-1", "--text-column=Größe"],
            "new.csv, line 2 (and 4 more rows): label '1' is not one of the classes of the run: negative, positive "
            "(--map LABEL=CLASS maps other labels to them).",
        ),
        (
            ["--encoding=latin-1", "--text-column=Größe", "--map", "0=bad"],
            "--map 0=bad: the classes of the run are negative, positive.",
        ),
        (["--split=test"], "--split cannot be used with --file, which replaces the split."),
        (["--encoding=latin-1", "--text-column=label"], "--label-column=label is also a column of texts"),
    ],
)
def test_mistakes_in_a_labelled_file(arguments: list[str], sentence: str, finished: Path, tmp_path: Path) -> None:
    parsed = argument_parser().parse_args(
        [str(finished), "--file", str(write_reviews(tmp_path / "new.csv")), *arguments]
    )
    with pytest.raises(imdbcls.UserError) as caught:
        require_options(parsed)
        evaluate_file([finished], parsed, io.StringIO())
    assert sentence in str(caught.value)
