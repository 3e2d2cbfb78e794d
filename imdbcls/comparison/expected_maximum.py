"""The expected validation metric of the best of n trials (Dodge et al. 2019, "Show Your Work", EMNLP, equation 7).

The best value of a group does not show how many trials were run to find it. The expected best of n trials shows which
group leads at each budget n. F is the empirical distribution of the metric over N trials. If n trials are drawn
independently from F, with replacement, P(best <= v) = F(v)^n. Only the trials of a random search are independent. For
n = N, the estimate is a little worse than the best of the N trials, because a draw can contain the same trial twice.
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
    """Return the expected best of n trials for n = 1 to N, given the values of N trials.

    Return an empty tuple if N = 0.
    """
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
