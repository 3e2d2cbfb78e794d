"""Significance levels for tests that are repeated while a study grows.

If a study is tested after every round of seeds, each time at 5 %, it finds a false "better" with a probability far
above 5 %. Error spending (Lan and DeMets 1983, Biometrika 70:659) keeps the total at 5 %. Each of the tests is a look,
and a function of the information says how much of the 5 % may be spent up to each look. The information at a look is
n / K if n of the K planned seeds are trained.

All looks use the same documents, so the covariance of the differences at two looks equals the variance at the later
look. This is the canonical form of group sequential tests (Jennison and Turnbull 1999, chapter 3). The information is
exactly n / K if documents cause no variance. The more variance they cause, the more conservative the levels are.

The levels apply to p-values, so any test can be used. A repeated p-value (Jennison and Turnbull 1999, section 9.4) is
the smallest total error rate at which the test would reject at this look. It can be corrected for several pairs like an
ordinary p-value: Holm's method on repeated p-values is the group sequential Holm procedure (Ye et al. 2013, Statistics
in Medicine 32:1112).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

Spending = Literal["obrien_fleming", "power"]
Sides = Literal[1, 2]

NUM_NODES = 160  # nodes of the numerical integration at each look
FARTHEST = 8.5  # standard deviations at which the distribution is cut off
MIN_ERROR, MAX_ERROR = 1e-12, 0.98  # total error rates between which repeated p-values are computed
NUM_ERRORS = 60  # total error rates at which the levels are tabulated


def spent(error: float, information: float, spending: Spending, sides: Sides) -> float:
    """Return the part of the total error rate `error` that may be spent up to a look.

    `information` is the share of the planned seeds that are trained at the look. "obrien_fleming" spends little at
    early looks; "power" spends `error` times the squared information.
    """
    if spending == "power":
        return error * information**2
    return float(2 * sides * special.ndtr(special.ndtri(error / (2 * sides)) / information**0.5))


@lru_cache(maxsize=4096)
def levels(error: float, information: tuple[float, ...], spending: Spending, sides: Sides = 2) -> tuple[float, ...]:
    """Return the significance level of the test at each look, for a total error rate.

    `information` is ascending; its last entry is 1 if the last look is the planned end. Under the null hypothesis, the
    test statistic is a Brownian motion, whose distribution is integrated numerically from look to look (Armitage,
    McPherson and Rowe 1969, Journal of the Royal Statistical Society A 132:235).
    """
    found: list[float] = []
    density_M, nodes_M, before, spent_before = np.ones(1), np.zeros(1), 0.0, 0.0
    for now in information:
        to_spend = spent(error, now, spending, sides) - spent_before
        step = (now - before) ** 0.5

        def excess(z: float, scale: float = now**0.5, step: float = step, target: float = to_spend) -> float:
            beyond_M = special.ndtr((nodes_M - z * scale) / step)  # noqa: B023  (called in this iteration)
            if sides == 2:
                beyond_M = beyond_M + special.ndtr((-nodes_M - z * scale) / step)  # noqa: B023
            return float(density_M @ beyond_M) - target  # noqa: B023

        z = FARTHEST if excess(FARTHEST) >= 0 else float(brentq(excess, -FARTHEST, FARTHEST, xtol=1e-10))
        found.append(float(sides * special.ndtr(-z)))
        lowest = -z if sides == 2 else -FARTHEST
        points_M, weights_M = interval_nodes(lowest * now**0.5, z * now**0.5)
        density_M = weights_M * (normal_density((points_M[:, None] - nodes_M) / step) @ density_M) / step
        nodes_M, before, spent_before = points_M, now, spent_before + to_spend
    return tuple(found)


def interval_nodes(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes and weights of a Gauss-Legendre rule on an interval."""
    nodes_M, weights_M = legendre(NUM_NODES)
    half = (high - low) / 2
    return low + half * (nodes_M + 1), half * weights_M


@lru_cache
def legendre(num_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(num_nodes)


def normal_density(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5


@lru_cache(maxsize=256)
def error_of_level(
    information: tuple[float, ...], look: int, spending: Spending, sides: Sides
) -> tuple[PchipInterpolator, float, float]:
    """Return log(total error rate) as a function of log(level at a look), and the lowest and highest level.

    The function interpolates between `NUM_ERRORS` error rates.
    """
    errors = np.exp(np.linspace(np.log(MIN_ERROR), np.log(MAX_ERROR), NUM_ERRORS))
    found = np.array([levels(float(error), information, spending, sides)[look] for error in errors])
    rising = np.append(np.diff(found) > 0, True)  # levels beyond `FARTHEST` are all equal
    return PchipInterpolator(np.log(found[rising]), np.log(errors[rising])), found[rising][0], found[rising][-1]


@dataclass(frozen=True)
class Look:
    """One of several planned looks at a growing study."""

    information: tuple[float, ...]  # share of the planned seeds at every planned look, ascending, up to 1
    index: int  # index of this look in `information`
    spending: Spending

    def level(self, error: float, sides: Sides = 2) -> float:
        """Return the significance level of a test at this look. All looks together have the error rate `error`."""
        return levels(error, self.information, self.spending, sides)[self.index]

    def repeated_p(self, p: float, sides: Sides = 2) -> float:
        """Return the total error rate at which a p-value at this look would be just significant."""
        interpolated, lowest, highest = error_of_level(self.information, self.index, self.spending, sides)
        if p >= highest:
            return 1.0
        return max(p, float(np.exp(interpolated(np.log(max(p, lowest))))))
