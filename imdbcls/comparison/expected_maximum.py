"""The expected validation metric of the best of n trials (Dodge et al. 2019, "Show Your Work", EMNLP, equation 7).

A single best value says nothing about what it cost. The expectation as a function of n shows which group is ahead at
which budget. N trials estimate the distribution of the metric; the n trials are drawn from it independently, with
replacement: P(best <= v) = F(v)^n for the empirical distribution F. So the estimate is exact for random search, and for
n = N it is a little below the best of the N trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Expected:
    """The mean and the standard deviation of the best of n trials."""

    value: float
    std: float


def expected_best(values: Sequence[float], higher_is_better: bool = True) -> tuple[Expected, ...]:
    """Return the expectation for n = 1 to N, from the values of N trials; empty without trials."""
    sign = 1.0 if higher_is_better else -1.0
    sorted_N = np.sort(sign * np.asarray(values, dtype=np.float64))
    num_values = len(sorted_N)
    ranks_N = np.arange(1, num_values + 1)
    found = []
    for n in range(1, num_values + 1):
        weights_N = (ranks_N / num_values) ** n - ((ranks_N - 1) / num_values) ** n
        mean = float(weights_N @ sorted_N)
        variance = float(weights_N @ (sorted_N - mean) ** 2)
        found.append(Expected(sign * mean, variance**0.5))
    return tuple(found)
