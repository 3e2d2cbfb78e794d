"""Simulated studies of every metric, and of the calibration error of calibrated models."""

import numpy as np
from numpy.typing import NDArray
from rules import OLD, infer_by_old_rules, without
from scipy.special import expit

from imdbcls.comparison.calibration import calibration_of, ece
from imdbcls.comparison.group import Group
from imdbcls.comparison.inference import Pair, infer
from imdbcls.comparison.metrics import METRICS, confidence_bin
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.statistics import Sample, Units, mean_over_seeds, seed_variances
from imdbcls.comparison.verdicts import LEVEL, Outcome
from imdbcls.runs.predictions import Predictions

METRIC_NAMES = tuple(METRICS)
NUM_DOCUMENTS = 3_000
NUM_SEEDS = 3
IDS = np.array([f"{i:05d}" for i in range(NUM_DOCUMENTS)], dtype=object)
TOKENS = np.ones(NUM_DOCUMENTS, dtype=np.int64)


def predictions_of(labels_N: NDArray[np.int64], logits_N: NDArray[np.float64]) -> Predictions:
    """Return predictions from the labels and the logits of the second class."""
    probabilities_NC = np.stack([expit(-logits_N), expit(logits_N)], axis=1)
    names = ("negative", "positive")
    return Predictions(IDS, labels_N, (logits_N > 0).astype(np.int64), probabilities_NC, TOKENS, None, names)


def metric_studies(share: float, generator: np.random.Generator, num_studies: int) -> NDArray[np.float64]:
    """Return, for each metric, whether the verdict is "better", and whether the interval contains zero.

    Both values are computed first by the old rules and then by the new rules. The heads are equally good.
    """
    units, rows = Units(NUM_DOCUMENTS), []
    for _ in range(num_studies):
        labels_N = (generator.random(NUM_DOCUMENTS) < share).astype(np.int64)
        # The evidence is normal in both classes, with means 2 x 1.2 apart, so this logit is calibrated.
        logits_N = np.log(share / (1 - share)) + 1.2 * 2 * (
            1.2 * (2 * labels_N - 1) + generator.normal(size=NUM_DOCUMENTS)
        )
        heads = []
        for _ in range(2):
            of_head_N = logits_N + 0.8 * generator.normal(size=NUM_DOCUMENTS)
            shifts_S, scales_S = (
                0.15 * generator.normal(size=NUM_SEEDS),
                np.exp(0.05 * generator.normal(size=NUM_SEEDS)),
            )
            heads.append(
                [
                    predictions_of(labels_N, scale * of_head_N + shift + 0.8 * generator.normal(size=NUM_DOCUMENTS))
                    for shift, scale in zip(shifts_S, scales_S, strict=True)
                ]
            )
        row: list[float] = []
        for metric in METRICS.values():
            evaluated = [[metric.evaluate(predictions) for predictions in head] for head in heads]
            samples = [
                Sample.of(
                    [value for value, _ in head],
                    np.stack([influence for _, influence in head], 1),
                    units,
                    change=metric.step(models[0]),
                )
                for models, head in zip(heads, evaluated, strict=True)
            ]
            (new,) = infer(samples, [Pair(0, 1)], 0.003)
            with without(*OLD):
                (old,) = infer_by_old_rules(samples, [Pair(0, 1)], 0.003)
                low, high = old.estimate.interval()
            new_low, new_high = new.estimate.interval()
            row += [
                *(each.outcome == Outcome.BETTER for each in (old, new)),
                low <= 0 <= high,
                new_low <= 0 <= new_high,
            ]
        rows.append(row)
    return np.array(rows, dtype=float)


def calibration_studies(
    num_seeds: int, separation: float, generator: np.random.Generator, num_studies: int
) -> NDArray[np.float64]:
    """Return whether the old interval contains the true ECE, which is zero, and whether the new test rejects.

    Every seed observes the class with normal noise. Part of the noise differs between seeds. A seed returns the exact
    probability of the class given its observation, so all seeds are calibrated.
    """
    units, rows = Units(NUM_DOCUMENTS), []
    for _ in range(num_studies):
        labels_N = generator.integers(0, 2, NUM_DOCUMENTS)
        seen_N = separation * (2 * labels_N - 1) + 0.8 * generator.normal(size=NUM_DOCUMENTS)
        models = [
            predictions_of(labels_N, 2 * separation * (seen_N + 0.6 * generator.normal(size=NUM_DOCUMENTS)))
            for _ in range(num_seeds)
        ]
        runs = tuple(Run(f"s{seed}", {"seed": seed}, {}, [], model) for seed, model in enumerate(models))
        calibration = calibration_of(Group("a", "a", "minilm", runs))
        evaluated = [plug_in_ece(model) for model in models]
        sample = Sample.of([value for value, _ in evaluated], np.stack([each for _, each in evaluated], 1), units)
        with without(*OLD):
            low, high = mean_over_seeds(sample, seed_variances([sample])[0]).interval()
        rows.append([low <= 0 <= high, calibration.p < LEVEL])
    return np.array(rows, dtype=float)


def plug_in_ece(predictions: Predictions) -> tuple[float, NDArray[np.float64]]:
    """Return the ECE, and the influence of each document on the ECE. The old interval is computed from both."""
    confidence_N, correct_N = predictions.probabilities.max(axis=1), predictions.correct
    bins_N = confidence_bin(confidence_N)
    signs = np.sign(np.bincount(bins_N, weights=correct_N - confidence_N))
    value = ece(confidence_N, correct_N)
    return value, signs[bins_N] * (correct_N - confidence_N) - value
