"""The key `metric` selects the best epoch, drives `trainer.patience`, and is checked on resume."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from support.api import TINY
from support.trainers import make, points

import imdbcls
from imdbcls.comparison.metrics import METRICS
from imdbcls.config.choices import MetricName
from imdbcls.errors import UserError
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.identity import choices_hash, config_hash, digest, group_hash
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.selection import LOWER_IS_BETTER, TITLES, as_text, metric_of
from imdbcls.sweeps.jobs import outcome_of
from imdbcls.tracking import Trackers
from imdbcls.training.selection import rank
from imdbcls.training.trainer import Trainer

SHORT = ("data.train_limit=8", "data.validation_limit=36", "lr=1e-9")


def with_label_probabilities(labels_N: NDArray[np.int64], negative: list[float], positive: list[float]) -> NDArray:
    """Return probabilities_NC, given the probability of the label for each negative and each positive document."""
    of_label_N = np.empty(len(labels_N))
    of_label_N[labels_N == 0], of_label_N[labels_N == 1] = negative, positive
    positive_N = np.where(labels_N == 1, of_label_N, 1 - of_label_N)
    return np.stack([1 - positive_N, positive_N], axis=1)


# Probabilities of the label in five epochs on 18 + 18 documents. Each epoch is the best by one metric.
EPOCHS = {
    # All positive documents rank above all negative documents, but every prediction is positive.
    "auroc": ([0.01 + 0.001 * i for i in range(18)], [0.9915] * 18),
    # One more document is correct than in the epoch for f1, and most correct documents are in one class.
    "accuracy": ([0.99] * 18, [0.99] * 6 + [0.001] * 12),
    "brier": ([0.9] * 11 + [0.49] * 7, [0.9] * 11 + [0.49] * 6 + [1e-12]),  # one very confident mistake
    "f1": ([0.99] * 12 + [0.001] * 6, [0.99] * 11 + [0.001] * 7),
    "loss": ([0.6] * 11 + [0.45] * 7, [0.6] * 11 + [0.45] * 7),
}


def show_predictions(trainer: Trainer, predictions: list[NDArray]) -> None:
    """Let the validation of each epoch return prepared probabilities; the test split must not be read."""
    remaining = list(predictions)

    def scores(model: object, batches: object, *given: object) -> NDArray:
        assert batches is trainer.batches.validation
        return remaining.pop(0)

    evaluation = replace(trainer.evaluator.evaluation, scores=scores)
    trainer.evaluator = replace(trainer.evaluator, evaluation=evaluation)


@pytest.mark.parametrize("metric", EPOCHS)
def test_each_metric_selects_its_best_epoch(metric: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, *SHORT, f"metric={metric}", "epochs=5")
    labels_N = trainer.batches.validation.labels
    show_predictions(trainer, [with_label_probabilities(labels_N, *each) for each in EPOCHS.values()])
    trainer.fit(Trackers())
    values = points(tmp_path, f"val/{metric}")
    assert len(values) == 5 and trainer.state.best_epoch == list(EPOCHS).index(metric) + 1
    best = min(values) if metric in LOWER_IS_BETTER else max(values)
    assert trainer.state.best_value == best == values[trainer.state.best_epoch - 1]
    saved = json.loads((tmp_path / "checkpoints" / "best" / "state.json").read_text())
    assert (saved["epoch"], saved[f"val/{metric}"]) == (trainer.state.best_epoch, best)


@pytest.mark.parametrize(("metric", "last_epoch", "best_epoch"), [("loss", 3, 1), ("accuracy", 5, 5), ("f1", 5, 5)])
def test_patience_counts_epochs_without_a_better_metric(
    metric: str, last_epoch: int, best_epoch: int, tmp_path: Path
) -> None:
    """In each epoch, one more document is correct, but the mistakes become more confident."""
    trainer = make(tmp_path, *SHORT, f"metric={metric}", "epochs=5", "trainer.patience=2")
    labels_N = trainer.batches.validation.labels
    epochs = [([0.9] * 17 + [0.1**epoch], [0.9] * (10 + epoch) + [0.1**epoch] * (8 - epoch)) for epoch in range(1, 6)]
    show_predictions(trainer, [with_label_probabilities(labels_N, *each) for each in epochs])
    trainer.fit(Trackers())
    assert (trainer.state.epoch, trainer.state.best_epoch) == (last_epoch, best_epoch)


@pytest.mark.parametrize("metric", EPOCHS)
def test_the_validation_loss_decides_ties(metric: MetricName) -> None:
    worse, better = (0.5, 0.4) if metric in LOWER_IS_BETTER else (0.4, 0.5)
    assert rank(metric, better, 0.9) > rank(metric, worse, 0.1)
    assert rank(metric, 0.5, 0.6) > rank(metric, 0.5, 0.7)


def test_the_earlier_of_two_equal_epochs_is_kept(tmp_path: Path) -> None:
    trainer = make(tmp_path, *SHORT, "epochs=2")
    predictions = with_label_probabilities(trainer.batches.validation.labels, *EPOCHS["f1"])
    show_predictions(trainer, [predictions, predictions])
    trainer.fit(Trackers())
    assert trainer.state.best_epoch == 1


def test_another_metric_does_not_change_training(tmp_path: Path) -> None:
    for metric in ("accuracy", "brier"):
        make(tmp_path / metric, f"metric={metric}").fit(Trackers())
    for key in ("train/loss", "train/grad_norm", "val/loss", "val/accuracy"):
        assert points(tmp_path / "accuracy", key) == points(tmp_path / "brier", key) != []


# Resume.


@pytest.mark.parametrize(("before", "after"), [("f1", "loss"), ("f1", "accuracy"), ("accuracy", "f1")])
def test_checkpoint_of_another_metric_is_refused(before: str, after: str, tmp_path: Path) -> None:
    begun = make(tmp_path, f"metric={before}")
    begun.saver.save(begun.state, begun.meter)
    begun.saver.wait()
    found, wanted = ("absent" if metric == "accuracy" else metric for metric in (before, after))
    with pytest.raises(UserError, match=f"configuration.metric is {found} in the checkpoint and {wanted} in this run"):
        make(tmp_path, f"metric={after}").resume()
    assert make(tmp_path, f"metric={before}").resume() == 0


def test_resumed_run_keeps_the_best_epoch(tmp_path: Path) -> None:
    trainer = make(tmp_path, *SHORT, "metric=loss", "epochs=3")
    labels_N = trainer.batches.validation.labels
    good, bad = ([0.6] * 18, [0.6] * 18), ([0.7] * 18, [0.2] * 18)
    show_predictions(trainer, [with_label_probabilities(labels_N, *each) for each in (bad, good)])
    with pytest.raises(IndexError):  # ends the training in the third epoch
        trainer.fit(Trackers())
    resumed = make(tmp_path, *SHORT, "metric=loss", "epochs=3")
    assert resumed.resume() == 2 * trainer.batches.train.steps_per_epoch
    assert (resumed.state.best_epoch, resumed.state.best_value) == (2, pytest.approx(-math.log(0.6)))
    show_predictions(resumed, [with_label_probabilities(labels_N, *bad)])
    resumed.fit(Trackers())
    assert (resumed.state.epoch, resumed.state.best_epoch) == (3, 2)


# Undefined metrics, and what a run says and records.


@pytest.fixture
def three_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Return choices for data with three classes, whose validation split lacks the class `bad`."""
    monkeypatch.chdir(tmp_path)
    for name, classes in (("train", "good,fair,bad"), ("validation", "good,fair"), ("test", "good,fair,bad")):
        rows = [f"{name} film {i} is {label},{label}\n" for i in range(12) for label in classes.split(",")]
        Path(f"{name}.csv").write_text("text,label\n" + "".join(rows))
    files = (f"data.{name}={name}.csv" for name in ("train", "validation", "test"))
    limits = ("data.train_limit=null", "data.validation_limit=null", "data.test_limit=null")
    return (*TINY, "data=files", *files, *limits, "max_length=16")


def test_undefined_auroc_is_refused_before_training(three_classes: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        imdbcls.run(imdbcls.compose(*three_classes, "metric=auroc"))
    assert str(refused.value) == (
        "metric=auroc is not defined on the validation split, because it has no document of class bad. Use more "
        "validation documents (data.validation_limit, data.validation_fraction) or another metric."
    )
    assert not (tmp_path / "runs").exists()


def test_run_names_its_metric(three_classes: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    choices = (*three_classes, "epochs=2", "progress=plain", "metric=f1")
    result = imdbcls.run(imdbcls.compose(*choices)).result
    messages = capsys.readouterr().err
    assert result["metric"] == "f1" and {"val/brier", "test/brier", "val/auroc", "test/auroc"} <= result.keys()
    assert "metric=f1: the best epoch has the highest macro F1 on validation\n" in messages
    assert re.search(
        r"epoch 1/2  train loss \d\.\d{4}  val f1 \d+\.\d\d%  val loss \d\.\d{4}  \d+(\.\d)? s  best\n", messages
    )
    value, test = result["val/f1"], result["test/f1"]
    assert f"  validation macro F1 {value:.2%} (best epoch {result['best_epoch']})\n" in messages
    assert f": test macro F1 {test:.2%}, test accuracy {result['test/accuracy']:.2%} on " in messages
    assert outcome_of("lstm", 0, "", result).detail == f"validation macro F1 {value:.2%}  test macro F1 {test:.2%}"


def test_default_run_names_no_metric(three_classes: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    result = imdbcls.run(imdbcls.compose(*three_classes, "progress=plain")).result
    messages = capsys.readouterr().err
    assert result["metric"] == "accuracy" and "metric=" not in messages and "best val" not in messages
    validation, test = (f"{result[f'{split}/accuracy']:.2%}" for split in ("val", "test"))
    assert (
        f": test accuracy {test} on " in messages and f"validation accuracy {validation} (best epoch 1)\n" in messages
    )
    assert outcome_of("lstm", 0, "", result).detail == f"validation {validation}  test {test}"


# Hashes and configs of earlier versions.


def test_default_metric_does_not_change_hashes() -> None:
    default, f1 = imdbcls.compose(*TINY), imdbcls.compose(*TINY, "metric=f1")
    assert default.metric == "accuracy" and "metric" not in default.choices()
    assert config_hash(default) == digest({key: value for key, value in f1.choices().items() if key != "metric"})
    for hash_of in (config_hash, group_hash, choices_hash):
        assert hash_of(default) != hash_of(f1)


# Definitions.


def test_facts_agree_everywhere() -> None:
    assert {*get_args(MetricName)} == TITLES.keys() == METRICS.keys()
    for name, metric in METRICS.items():
        assert metric.title == TITLES[name] and metric.higher_is_better == (name not in LOWER_IS_BETTER)
        assert metric.is_percentage == as_text(name, 0.5).endswith("%")


@pytest.mark.parametrize("num_classes", [2, 3])
def test_training_and_comparison_compute_the_same_values(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    labels_N = generator.integers(num_classes, size=60)
    probabilities_NC = generator.dirichlet(np.ones(num_classes), size=60)
    names = tuple(f"class {c}" for c in range(num_classes))
    predictions = Predictions(
        ids=np.array([str(i) for i in range(60)]),
        labels=labels_N,
        predicted=probabilities_NC.argmax(axis=1),
        probabilities=probabilities_NC,
        tokens=None,
        clusters=None,
        label_names=names,
    )
    values = metrics_of(labels_N, probabilities_NC)
    for name, metric in METRICS.items():
        assert values[name] == pytest.approx(metric.evaluate(predictions)[0], abs=1e-12), name


def test_unknown_metrics_of_results_are_ignored() -> None:
    assert metric_of({"metric": "loss"}) == "loss"
    for value in (None, "mcc", ["loss"], {"loss": 1}, 3):
        assert metric_of({"metric": value}) == metric_of({}) == "accuracy"
    for value in (None, "high", math.nan, math.inf, [1]):
        assert as_text("f1", value) == "undefined"
