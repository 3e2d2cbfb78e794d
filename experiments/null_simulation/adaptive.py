"""Studies that grow seed by seed: compare planned looks with a fixed number of seeds and with a test after each seed.

`imdbcls.comparison.race.race`, the function that `study` and `compare` call, makes every decision. A look is a test of
all groups between two rounds of training. Two rules that the package does not offer are special cases of `race`. A
fixed number of seeds is a plan whose first look is its last. A test after each seed is a plan without the levels for
planned looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from draws import ACCURACY, DIFFICULTY_SD, HEAD_SD, POINTS, RESIDUAL_SD, Setting, draw_samples
from rules import OLD, without
from scipy.special import ndtri
from scipy.stats import multivariate_normal
from tables import Numbers, Runner, percent, print_header, print_row

from imdbcls.comparison.race import Round, State, race
from imdbcls.comparison.statistics import Sample
from imdbcls.comparison.verdicts import Outcome
from imdbcls.runs.plan import Plan, PlannedGroup

MAX_SEEDS, FIRST_LOOK = 10, 3
MARGIN = 0.003
FUTILITY = 0.1  # chance of a verdict below which a group is stopped
MIDDLE = 4  # index of the head in SPREAD that is one point behind
SHRINKING = ("flat prior of futility",)
SPREAD = (0.0, 0.0, 0.2, 0.5, 1.0, 2.0, 3.0)
EFFECT = 2.9  # in standard errors; the power is about 80 % with a fixed number of seeds


@dataclass(frozen=True)
class Rule:
    """A rule that determines when a study is tested, and when it stops."""

    first_look: int = FIRST_LOOK
    margin: float | None = MARGIN
    futility: float | None = None
    switched_off: tuple[str, ...] = ()  # rules of the comparison to switch off (keys of `rules.REPLACEMENTS`)

    def decide(self, samples: Sequence[Sample]) -> list[Round]:
        groups = tuple(PlannedGroup(name=str(i), group_hash=str(i), overrides=()) for i in range(len(samples)))
        plan = Plan(
            groups=groups,
            seeds=tuple(range(MAX_SEEDS)),
            first_look=self.first_look,
            metric="accuracy",
            margin=self.margin,
            futility=self.futility,
        )
        with without(*self.switched_off):
            return race(samples, plan)


# The number of documents, and the standard deviation between seeds in points.
CASES = {"A": (5_000, 0.2), "B": (25_000, 0.2), "C": (25_000, 0.5)}
RULES = {
    "fixed 10": Rule(first_look=MAX_SEEDS),
    "a test after each seed": Rule(switched_off=("levels of looks",)),
    "a test after each seed, old rules": Rule(switched_off=("levels of looks", *OLD)),
    "planned looks": Rule(),
    "planned looks, futility": Rule(futility=FUTILITY),
    "planned looks, futility by a shrinking prior": Rule(futility=FUTILITY, switched_off=SHRINKING),
    "planned looks, the same at 2 %": Rule(futility=0.02, switched_off=SHRINKING),
}


def draw_compressed(setting: Setting, generator: np.random.Generator) -> list[Sample]:
    """Return smaller samples with the same covariances over documents as the samples of `draw_samples`.

    The tests use only the covariances of the influences. The influences X have N rows and a column for each seed of
    each head. Any factor R with RᵀR = XᵀX can therefore replace X.
    """
    units = setting.units()
    samples = draw_samples(setting, generator, units)
    joined_NS = np.concatenate([sample.sums_GS for sample in samples], axis=1)
    values, vectors = np.linalg.eigh((joined_NS.T @ joined_NS).astype(np.float64))
    factor = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    parts = np.split(factor, np.cumsum(setting.num_seeds)[:-1], axis=1)
    return [replace(sample, sums_GS=part) for sample, part in zip(samples, parts, strict=True)]


def num_seeds_of(rounds: Sequence[Round]) -> list[int]:
    """Return the number of seeds that each head was trained with until the study ended."""
    return [each.num_seeds or rounds[-1].num_seeds for each in rounds[-1].standings]


def false_better(rounds: Sequence[Round], truth: Numbers) -> bool:
    """Return whether any look calls a head better although it is not."""
    return any(
        inference.outcome == Outcome.BETTER and inference.estimate.value * (truth[i] - truth[j]) <= 0
        for each in rounds
        for (i, j), inference in each.inferences.items()
    )


def all_intervals_hold(rounds: Sequence[Round], truth: Numbers) -> bool:
    """Return whether the last interval of every pair contains the true difference."""
    last = {pair: inference.simultaneous for each in rounds for pair, inference in each.inferences.items()}
    return all(low <= truth[i] - truth[j] <= high for (i, j), (low, high) in last.items())


def adaptive_studies(
    setting: Setting, rules: Sequence[Rule], generator: np.random.Generator, num_studies: int
) -> Numbers:
    """Return six numbers per rule. All rules are applied to the same studies.

    - Whether any "better" is false.
    - Whether the head `MIDDLE`, or the second of two heads, is found worse.
    - The number of runs.
    - Whether the last interval of every pair contains the true difference.
    - The difference between the first two heads at their last test, or NaN if neither is "better".
    - Whether these two heads are "equivalent".
    """
    middle = min(MIDDLE, len(setting.num_seeds) - 1)
    rows = []
    for _ in range(num_studies):
        samples = draw_compressed(setting, generator)
        row: list[float] = []
        for rule in rules:
            rounds = rule.decide(samples)
            first = next(each.inferences[0, 1] for each in reversed(rounds) if (0, 1) in each.inferences)
            row += [
                false_better(rounds, setting.accuracies),
                rounds[-1].standings[middle].state is State.WORSE,
                sum(num_seeds_of(rounds)),
                all_intervals_hold(rounds, setting.accuracies),
                first.estimate.value if first.outcome == Outcome.BETTER else np.nan,
                first.outcome == Outcome.EQUIVALENT,
            ]
        rows.append(row)
    return np.array(rows, dtype=float)


def standard_error(setting: Setting) -> float:
    """Return the true standard error of the difference in accuracy between two equally good heads, in points.

    It combines the variance between seeds and the variances of the interactions head x document and seed x document.
    """
    seed_variance = (setting.seed_sds[0] / POINTS) ** 2
    total = DIFFICULTY_SD**2 + HEAD_SD**2 + RESIDUAL_SD**2 + seed_variance
    bound = np.full(2, ndtri(ACCURACY))

    def both_right(shared_variance: float) -> float:
        correlation = shared_variance / total
        return float(multivariate_normal.cdf(bound, cov=[[1.0, correlation], [correlation, 1.0]]))

    same_head, other_head = both_right(DIFFICULTY_SD**2 + HEAD_SD**2), both_right(DIFFICULTY_SD**2)
    num_seeds, num_documents = setting.num_seeds[0], setting.num_documents
    of_seeds = ((setting.seed_sds[0] / 100) ** 2 + (ACCURACY - same_head) / num_documents) / num_seeds
    return 100 * (2 * ((same_head - other_head) / num_documents + of_seeds)) ** 0.5


def print_adaptive(run: Runner) -> None:
    print_two_heads(run)
    print_seven_heads(run)


def print_two_heads(run: Runner) -> None:
    """Print error rate, power, seeds and intervals for two heads: equal, and `EFFECT` standard errors apart."""
    print_header(
        "two heads",
        *("false better", "power", "seeds at the effect", "seeds, equal"),
        *("intervals at the effect", "intervals, equal", "overestimated by", "equivalent at the effect", "equal"),
        "studies",
    )
    for case, (num_documents, sd) in CASES.items():
        setting = Setting((MAX_SEEDS,) * 2, (sd,) * 2, num_documents)
        effect = EFFECT * standard_error(setting)
        equal = run(partial(adaptive_studies, setting, tuple(RULES.values())))
        apart = run(partial(adaptive_studies, replace(setting, behind=(0.0, effect)), tuple(RULES.values())))
        for i, rule in enumerate(RULES):
            null, real = (each[:, 6 * i : 6 * i + 6].T for each in (equal, apart))
            found = real[4][~np.isnan(real[4])]
            print_row(
                f"{case}, {rule}",
                *(percent(null[0]), percent(real[1]), f"{real[2].mean() / 2:.1f}", f"{null[2].mean() / 2:.1f}"),
                *(percent(real[3]), percent(null[3]), percent(found / (effect / 100) - 1)),
                *(percent(real[5]), percent(null[5])),
                f"{len(equal):,}",
            )


def print_seven_heads(run: Runner) -> None:
    """Print the error rate, runs and power for seven heads: equal, and with the differences in `SPREAD`."""
    print_header(
        "seven heads",
        *("false better", "runs, equal", "runs, spread", "one point behind is worse", "false better, spread"),
        *("all intervals, equal", "all intervals, spread", "studies"),
    )
    for case, (num_documents, sd) in CASES.items():
        setting = Setting((MAX_SEEDS,) * 7, (sd,) * 7, num_documents)
        equal = run(partial(adaptive_studies, setting, tuple(RULES.values())))
        spread = run(partial(adaptive_studies, replace(setting, behind=SPREAD), tuple(RULES.values())))
        for i, rule in enumerate(RULES):
            null, real = (each[:, 6 * i : 6 * i + 6].T for each in (equal, spread))
            print_row(
                f"{case}, {rule}",
                *(percent(null[0]), f"{null[2].mean():.1f}", f"{real[2].mean():.1f}", percent(real[1])),
                *(percent(real[0]), percent(null[3]), percent(real[3])),
                f"{len(equal):,}",
            )
