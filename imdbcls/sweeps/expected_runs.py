"""Estimate how many runs a planned study needs, and which difference it detects, under one model of its results."""

import numpy as np
from numpy.typing import NDArray

from imdbcls.comparison.estimate import t_quantile
from imdbcls.comparison.power import POWER
from imdbcls.comparison.race import race, spending_of
from imdbcls.comparison.sequential import Look
from imdbcls.comparison.statistics import Sample, Units, difference_over_seeds, seed_variances
from imdbcls.comparison.verdicts import LEVEL
from imdbcls.runs.plan import Plan

NUM_STUDIES = 60
NUM_POWER_STUDIES = 400
NUM_UNITS = 200  # number of simulated documents; their variance is scaled to the true number of test documents
SEED_SD = 0.003  # standard deviation of the metric over seeds
# Standard deviations over documents of three effects: one that all groups share, one that the seeds of a group share,
# and one for each run.
SHARED_SD, GROUP_SD, RUN_SD = 0.22, 0.12, 0.16
# Share of documents that exactly one of two runs of different groups gets right.
DISAGREEMENT = 2 * (GROUP_SD**2 + RUN_SD**2)


def expected_runs(plan: Plan, num_documents: int, step: float) -> float:
    """Return the mean number of runs if each group is worse than the group before it by `step` (a fraction of one).

    The constants `*_SD` are typical of sentiment classifiers with an accuracy of about 90 %. The values of the metric
    must be fractions of one.
    """
    generator = np.random.default_rng(0)
    shifts = -step * np.arange(len(plan.groups), dtype=np.float64)
    return float(np.mean([simulated_runs(plan, num_documents, shifts, generator) for _ in range(NUM_STUDIES)]))


def detectable_difference(plan: Plan, num_documents: int) -> float:
    """Return the smallest true difference between two groups that is found in 80 % of studies with all planned seeds.

    Studies of equal groups are drawn as in `expected_runs` and tested at the last look. The level is corrected for all
    looks and all pairs. A true difference would be added to the observed difference, without changing the variance. The
    smallest true difference that the test finds in a study is therefore the critical difference minus the observed
    difference.
    """
    generator, equal = np.random.default_rng(0), np.zeros(len(plan.groups))
    last = Look(plan.information, len(plan.information) - 1, spending_of(plan))
    level = last.level(LEVEL / plan.num_pairs)
    smallest = []
    for _ in range(NUM_POWER_STUDIES):
        samples = drawn_samples(plan, num_documents, equal, generator)
        error = difference_over_seeds(samples[0], samples[1], seed_variances(samples)[:2])
        critical = t_quantile(1 - level / 2, error.degrees_of_freedom) * error.standard_error
        smallest.append(critical - error.value)
    return float(np.quantile(smallest, POWER))


def simulated_runs(plan: Plan, num_documents: int, shifts: NDArray[np.float64], generator: np.random.Generator) -> int:
    """Draw one study and return how many runs its plan trains."""
    last = race(drawn_samples(plan, num_documents, shifts, generator), plan)[-1]
    return sum(standing.num_seeds or last.num_seeds for standing in last.standings)


def drawn_samples(
    plan: Plan, num_documents: int, shifts: NDArray[np.float64], generator: np.random.Generator
) -> list[Sample]:
    """Draw values of the metric for all planned groups and seeds. `shifts` contains the true value of each group."""
    units, scale = Units(NUM_UNITS), (NUM_UNITS / num_documents) ** 0.5
    shared_U = SHARED_SD * generator.standard_normal(NUM_UNITS)
    samples = []
    for shift in shifts:
        group_U = shared_U + GROUP_SD * generator.standard_normal(NUM_UNITS)
        noise_US = RUN_SD * generator.standard_normal((NUM_UNITS, len(plan.seeds)))
        influence_US = scale * (group_U[:, None] + noise_US)
        luck_S = SEED_SD * generator.standard_normal(len(plan.seeds))
        values_S = shift + luck_S + influence_US.mean(axis=0)
        samples.append(Sample.of(values_S, influence_US - influence_US.mean(axis=0), units, change=scale**2))
    return samples
