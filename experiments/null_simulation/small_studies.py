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
WIDE_MARGINS = {6: 60.0, 10: 40.0, 20: 20.0, 65: 8.0, 320: 2.0, 5_000: 0.5}
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


NUM_OUTCOMES = 4


def small_studies(
    setting: Setting, margin: float, rule: str, generator: np.random.Generator, num_studies: int
) -> Numbers:
    """Return four numbers per study without a rule (see `rules`), and then the same four numbers with the rule.

    - Whether the verdict is "better".
    - Whether the equivalence test rejects.
    - Whether the interval contains the true difference.
    - Whether the verdict is "better" although the interval contains zero.
    """
    truth = float(setting.accuracies[0] - setting.accuracies[1])
    rows = []
    for _ in range(num_studies):
        outcomes = draw_outcomes(setting, generator)
        row: list[float] = []
        for rules in ((rule,), ()):
            with without(*rules):
                found = decided(outcomes, setting, margin)
                low, high = found.estimate.interval()
            is_better = found.outcome in (Outcome.BETTER, Outcome.BETTER_HERE)
            is_equivalent = found.p_equivalence is not None and found.p_equivalence < LEVEL
            row += [is_better, is_equivalent, low <= truth <= high, is_better and low < 0 < high]
        rows.append(row)
    return np.array(rows, dtype=float)


def print_small(run: Runner) -> None:
    """Print how often equal heads are "better", and how often heads exactly one margin apart are "equivalent"."""
    print_header(
        *("heads, documents, seeds", "better, without", "with"),
        *(f"equivalent at {MARGIN} points, without", "with", "at a wide margin, without", "with"),
        *("interval, without", "with", "interval at the wide margin, without", "with", "studies"),
    )
    for name, spreads in AGREEMENTS.items():
        for num_documents in (20, 65, 320, 5_000):
            wide = WIDE_MARGINS[num_documents]
            for num_seeds in (1, 3, 5):
                setting = small(num_seeds, num_documents, **spreads)
                equal = run(partial(small_studies, setting, MARGIN, "steps"), 2)
                near, apart = (
                    run(partial(small_studies, replace(setting, behind=(0.0, margin)), margin, "steps"), 2)
                    for margin in (MARGIN, wide)
                )
                title = f"{name}, {num_documents:,}, {num_seeds}"
                numbers = ((equal, 0), (near, 1), (apart, 1), (equal, 2), (apart, 2))
                columns = [found.T[i::NUM_OUTCOMES] for found, i in numbers]
                print_row(title, *(percent(each) for pair in columns for each in pair), f"{len(equal):,}")
    print_power(run)
    print_centred(run)


def print_power(run: Runner) -> None:
    """Print how often a real difference is found, and how often equal heads are equivalent, with many documents."""
    print_header(
        *("documents, seeds, margin", "better, without", "with", "equivalent, equal heads, without", "with", "studies")
    )
    for num_documents, margin in ((5_000, 1.0), (25_000, 0.5)):
        for num_seeds in (1, 3, 5):
            setting = small(num_seeds, num_documents)
            apart = replace(setting, behind=(0.0, EFFECT * standard_error(setting)))
            real = run(partial(small_studies, apart, margin, "steps"))
            equal = run(partial(small_studies, setting, margin, "steps"))
            columns = [*real.T[0::NUM_OUTCOMES], *equal.T[1::NUM_OUTCOMES]]
            title = f"{num_documents:,}, {num_seeds}, {margin} points"
            print_row(title, *(percent(each) for each in columns), f"{len(real):,}")


def print_centred(run: Runner) -> None:
    """Print how often verdicts and intervals disagree, and error rates of equivalence tests, for both score tests."""
    print_header(
        *("heads, documents, seeds", "false better", "a real difference is found"),
        *("its interval contains zero, without", "with", "equivalent at a wide margin, without", "with"),
        *("equal heads are equivalent, without", "with", "interval at the wide margin, without", "with"),
    )
    for name, spreads in AGREEMENTS.items():
        for num_documents in (6, 10, 20, 65, 320):
            margin = WIDE_MARGINS[num_documents]
            for num_seeds in (1, 2, 3, 5):
                setting = small(num_seeds, num_documents, **spreads)
                equal, real, apart = (
                    run(partial(small_studies, replace(setting, behind=(0.0, behind)), margin, "centred score test"), 2)
                    for behind in (0.0, EFFECT * standard_error(setting), margin)
                )
                numbers = ((real, 3), (apart, 1), (equal, 1), (apart, 2))
                columns = [equal.T[0], real.T[0], *(each for found, i in numbers for each in found.T[i::NUM_OUTCOMES])]
                print_row(f"{name}, {num_documents:,}, {num_seeds}", *(percent(each) for each in columns))
