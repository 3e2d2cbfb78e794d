"""What a run logs at its end: an interval, the largest class, scores per class, warnings and the next command."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint
from support.runs import TINY, Launch

from imdbcls.models.scores import class_scores, class_table
from imdbcls.runs.folder import RunFolder
from imdbcls.training.closing import accuracy_interval, loss_of_guessing, next_step, result_lines


def test_interval_and_guessing_equal_those_of_other_libraries() -> None:
    confusion_CC = np.array([[30, 10], [5, 15]])
    assert accuracy_interval(confusion_CC) == pytest.approx(proportion_confint(45, 60, method="wilson"))
    labels_N = np.array([0, 0, 1, 2, 2, 2])
    assert loss_of_guessing(labels_N) == pytest.approx(entropy([2, 1, 3]))


def test_table_of_classes_equals_sklearn() -> None:
    """The class `never` is not predicted, and the class `absent` has no document."""
    confusion_CC = np.array([[8, 0, 2, 0], [3, 0, 1, 0], [1, 0, 5, 0], [0, 0, 0, 0]])
    true = np.repeat(np.arange(4), confusion_CC.sum(axis=1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in confusion_CC])
    scores = precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0.0)
    header, _, *rows = class_table(class_scores(confusion_CC, ["good", "never", "bad", "absent"]), None)
    assert header.split() == ["class", "precision", "recall", "F1", "documents"]
    for number, row in enumerate(rows):
        values = [f"{scores[kind][number]:.2%}" for kind in range(3)]
        assert row.split()[1:] == [*values, str(scores[3][number])]


def test_interval_of_clustered_documents_is_logged_with_a_note() -> None:
    """The run treats documents as independent. `compare` treats clusters as independent, so their intervals differ."""
    result = {
        **{"metric": "accuracy", "name": "cls-s0", "test/accuracy": 0.75, "val/accuracy": 0.75, "test_documents": 60},
        **{"test/confusion_matrix": [[20, 10], [5, 25]], "label_names": ["neg", "pos"], "watched_test": False},
        **{"best_epoch": 1},
    }
    without, same, clustered = (list(result_lines(result, number)) for number in (None, 60, 12))
    assert without == same and len(clustered) == len(without) + 1
    assert "60 documents as independent; compare treats their 12 clusters" in clustered[2]
    seen = list(result_lines({**result, "encoder_source": {"run": "mlm-s0", "same_splits": False}}, None))
    assert seen[:-1] == without
    assert seen[-1] == (
        "  the encoder was trained in an earlier run that held out other documents, so it may have learned from test "
        "documents"
    )


def test_run_says_what_it_learned(tmp_path: Path, launch: Launch) -> None:
    """A run of two steps learns nothing. After the second run of the study, the next command is only `compare`."""
    command = ("train", *TINY, "tracker=none", "study=demo", "progress=plain", "batch_size=32", "epochs=1")
    lines = launch(tmp_path, *command, "lr=1e-7").stderr.splitlines()
    (path,) = tmp_path.glob("runs/demo/*/result.json")
    result = json.loads(path.read_text())
    epoch = next(line for line in lines if line.startswith("epoch 1/1  train loss"))
    assert f"train loss {result['train_loss']:.4f}  val accuracy {result['val/accuracy']:.2%}" in epoch
    assert epoch.endswith("best") and re.search(r"  \d+(\.\d)? s  best$", epoch)
    start = next(index for index, line in enumerate(lines) if ": test accuracy" in line)
    name, accuracy = result["name"], result["test/accuracy"]
    assert lines[start] == f"{name}: test accuracy {accuracy:.2%} on 40 documents"
    low, high = accuracy_interval(np.array(result["test/confusion_matrix"]))
    assert f"95 % interval over documents {low:.2%} to {high:.2%}; always predicting '" in lines[start + 1]
    assert "compare treats their 37 clusters" in lines[start + 2]
    assert lines[start + 3] == f"  validation accuracy {result['val/accuracy']:.2%} (best epoch 1)"
    end = "\n".join(lines[start:])
    found = re.search(r"last epoch, (\S+), is (close to|not below) the loss of guessing, (\S+)\. ", end)
    assert found is not None
    loss, relation, guessing = found.groups()
    assert relation == ("close to" if float(loss) < float(guessing) else "not below")
    assert "2 steps with lr=1e-07 were too few to learn: use more epochs or a larger learning rate." in end
    assert lines[-1] == "  next: the same command with head=mean, then python -m imdbcls.compare runs/demo"
    again = launch(tmp_path, *command, "head=mean", "lr=1e-3", "optimizer.lr=1e-7").stderr
    assert again.endswith("  next: python -m imdbcls.compare runs/demo\n")
    assert "2 steps with optimizer.lr=1e-07 were too few" in again, "the message must name the rate in use"


def test_only_a_finished_run_can_be_compared(finished: Path, tmp_path: Path) -> None:
    study = tmp_path / "heads"
    shutil.copytree(finished, study / "this")
    shutil.copytree(finished, study / "other")
    config = SimpleNamespace(head=SimpleNamespace(name="lstm"))
    run: Any = SimpleNamespace(folder=RunFolder(study / "this"), config=config)
    assert next_step(run) == f"python -m imdbcls.compare {study}"
    path = study / "other" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    assert next_step(run) == f"the same command with head=cls, then python -m imdbcls.compare {study}"
