"""Studies with few documents, or with heads that agree on nearly all documents."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from adaptive import EFFECT, standard_error
from draws import Setting, draw_outcomes, sample_of_outcomes
from rules import without
from tables import Numbers, Runner, percent, print_header, print_row

from imdbcls.comparison.inference import Inference, Pair, infer
from imdbcls.comparison.statistics import permutation_p
from imdbcls.comparison.verdicts import LEVEL, Outcome

MARGIN = 0.3  # in points
# Margins in points for each number of documents, wide enough to show equivalence.
WIDE_MARGINS = {20: 20.0, 65: 8.0, 320: 2.0, 5_000: 0.5}
AGREEMENTS: dict[str, dict[str, float]] = {"usual heads": {}, "similar heads": {"head_sd": 0.02, "residual_sd": 0.05}}


def small(num_seeds: int, num_documents: int, **spreads: Any) -> Setting:
    """Return a setting with two heads. With one seed, the models themselves are compared, so seeds do not vary."""
    sd = 0.0 if num_seeds == 1 else 0.2
    return Setting((num_seeds,) * 2, (sd,) * 2, num_documents, **spreads)


def decided(outcomes: Sequence[np.ndarray], setting: Setting, margin: float) -> Inference:
    """Test the two heads as `compare` does. With one seed, this is a permutation test over documents."""
    units = setting.units()
    first, second = (correct_SN.astype(np.float32) for correct_SN in outcomes)
    pair = Pair(0, 1, p_documents=permutation_p(first, second, units))
    (inference,) = infer([sample_of_outcomes(each, units) for each in outcomes], [pair], margin / 100)
    return inference


def small_studies(setting: Setting, margin: float, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return three numbers per study, each first without and then with the rules for metrics that change in steps.

    The numbers are: whether the verdict is "better"; whether the equivalence test rejects; and whether the interval
    contains the true difference.
    """
    truth = float(setting.accuracies[0] - setting.accuracies[1])
    rows = []
    for _ in range(num_studies):
        outcomes = draw_outcomes(setting, generator)
        row: list[float] = []
        for rules in (("steps",), ()):
            with without(*rules):
                found = decided(outcomes, setting, margin)
                low, high = found.estimate.interval()
            is_equivalent = found.p_equivalence is not None and found.p_equivalence < LEVEL
            row += [found.outcome in (Outcome.BETTER, Outcome.BETTER_HERE), is_equivalent, low <= truth <= high]
        rows.append(row)
    return np.array(rows, dtype=float)


def print_small(run: Runner) -> None:
    """Print how often equal heads are "better", and heads that are exactly one margin apart are "equivalent"."""
    print_header(
        *("heads, documents, seeds", "better, without", "with"),
        *(f"equivalent at {MARGIN} points, without", "with", "at a wide margin, without", "with"),
        *("interval, without", "with", "interval at the wide margin, without", "with", "studies"),
    )
    for name, spreads in AGREEMENTS.items():
        for num_documents, wide in WIDE_MARGINS.items():
            for num_seeds in (1, 3, 5):
                setting = small(num_seeds, num_documents, **spreads)
                equal = run(partial(small_studies, setting, MARGIN), 2)
                near, apart = (
                    run(partial(small_studies, replace(setting, behind=(0.0, margin)), margin), 2)
                    for margin in (MARGIN, wide)
                )
                title = f"{name}, {num_documents:,}, {num_seeds}"
                columns = [equal.T[0::3], near.T[1::3], apart.T[1::3], equal.T[2::3], apart.T[2::3]]
                print_row(title, *(percent(each) for pair in columns for each in pair), f"{len(equal):,}")
    print_power(run)


def print_power(run: Runner) -> None:
    """Print how often a real difference is found, and how often equal heads are equivalent, with many documents."""
    print_header(
        *("documents, seeds, margin", "better, without", "with", "equivalent, equal heads, without", "with", "studies")
    )
    for num_documents, margin in ((5_000, 1.0), (25_000, 0.5)):
        for num_seeds in (1, 3, 5):
            setting = small(num_seeds, num_documents)
            apart = replace(setting, behind=(0.0, EFFECT * standard_error(setting)))
            real = run(partial(small_studies, apart, margin))
            equal = run(partial(small_studies, setting, margin))
            columns = [*real.T[0::3], *equal.T[1::3]]
            title = f"{num_documents:,}, {num_seeds}, {margin} points"
            print_row(title, *(percent(each) for each in columns), f"{len(real):,}")
