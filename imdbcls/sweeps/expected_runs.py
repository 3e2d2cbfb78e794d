"""Estimate how many runs a planned study needs, from simulated studies that are decided by the same plan."""

import numpy as np
from numpy.typing import NDArray

from imdbcls.comparison.race import race
from imdbcls.comparison.statistics import Sample, Units
from imdbcls.runs.plan import Plan

NUM_STUDIES = 60
NUM_UNITS = 200  # number of simulated documents; their variance is scaled to the true number of test documents
SEED_SD = 0.003  # standard deviation of the metric over seeds
# Standard deviations over documents of three effects: one that all groups share, one that the seeds of a group share,
# and one of each run.
SHARED_SD, GROUP_SD, RUN_SD = 0.22, 0.12, 0.16


def expected_runs(plan: Plan, num_documents: int, step: float) -> float:
    """Return the mean number of runs if each group is worse than the group before it by `step` (a fraction of one).

    The constants `*_SD` are typical of sentiment classifiers with an accuracy of about 90 %. The metric must
    be one whose values are fractions of one.
    """
    generator = np.random.default_rng(0)
    shifts = -step * np.arange(len(plan.groups), dtype=np.float64)
    return float(np.mean([simulated_runs(plan, num_documents, shifts, generator) for _ in range(NUM_STUDIES)]))


def simulated_runs(plan: Plan, num_documents: int, shifts: NDArray[np.float64], generator: np.random.Generator) -> int:
    """Draw one study and return how many runs its plan trains."""
    units, scale = Units(NUM_UNITS), (NUM_UNITS / num_documents) ** 0.5
    shared_U = SHARED_SD * generator.standard_normal(NUM_UNITS)
    samples = []
    for shift in shifts:
        group_U = shared_U + GROUP_SD * generator.standard_normal(NUM_UNITS)
        noise_US = RUN_SD * generator.standard_normal((NUM_UNITS, len(plan.seeds)))
        influence_US = scale * (group_U[:, None] + noise_US)
        luck_S = SEED_SD * generator.standard_normal(len(plan.seeds))
        values_S = shift + luck_S + influence_US.mean(axis=0)
        samples.append(Sample.of(values_S, influence_US - influence_US.mean(axis=0), units, step=scale**2))
    last = race(samples, plan)[-1]
    return sum(standing.num_seeds or last.num_seeds for standing in last.standings)
