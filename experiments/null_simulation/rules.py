"""Switch off single rules of the comparison to measure their effects. Also apply the old rules to a study."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from tables import Numbers

from imdbcls.comparison import estimate, inference, race, statistics
from imdbcls.comparison.estimate import Estimate, SeedVariance, t_quantile, t_tail
from imdbcls.comparison.inference import Inference, Pair, infer
from imdbcls.comparison.power import chance_to_settle
from imdbcls.comparison.sequential import Look
from imdbcls.comparison.statistics import Sample, Units, holm
from imdbcls.comparison.verdicts import LEVEL, outcome_of


def plain_degrees_of_freedom(estimate: Estimate) -> float:
    """Return Satterthwaite's degrees of freedom, weighted by the estimated variances."""
    parts = [(variance.of_mean, variance.degrees_of_freedom) for variance in estimate.seed_variances]
    parts.append((estimate.document_variance, estimate.document_df))
    uncertainty = sum(variance**2 / df for variance, df in parts if df > 0)
    return estimate.variance**2 / uncertainty if uncertainty > 0 else float("inf")


def unweighted_variance_factor(units: Units) -> float:
    return len(units) / (len(units) - 1) / units.num_documents**2


def estimate_without_steps(
    value: float,
    seed_variances: Sequence[SeedVariance | None],
    document_variance: float,
    document_df: float,
    step: float = 0.0,
    effective_size: float = float("inf"),
) -> Estimate:
    known = tuple(variance for variance in seed_variances if variance is not None)
    return Estimate(value, known, max(0.0, document_variance), document_df)


def uncentred_score_variance(
    value: Numbers | float, truth: float, variance: Numbers | float, step: float, effective_size: float
) -> Numbers:
    """Return the variance of Tango's score test without the terms that matter only for large differences."""
    farther = np.maximum(0.0, truth * (truth - value))
    return (variance + np.sqrt(variance**2 + 4 * step**2 * farther)) / 2


def uncentred_distance_to_end(estimate: Estimate, level: float, sign: int) -> float:
    """Return the distance from the estimate to an end of its interval: the larger of the distances by two tests.

    The tests are the t-test and the score test with `uncentred_score_variance`. The distance e of the score test solves
    e² = t² variance, that is, e³ = p e + q. If no root is positive, the distance is sqrt(p / 3), where e³ - p e is
    smallest.
    """
    distance = t_quantile(0.5 + level / 2, estimate.degrees_of_freedom) * estimate.standard_error
    t = t_quantile(0.5 + level / 2, estimate.document_df)
    if estimate.step == 0 or not np.isfinite(t):
        return distance
    steps = t**4 * estimate.step**2
    p, q = t**2 * estimate.variance + steps, sign * steps * estimate.value
    roots = np.roots([1.0, 0.0, -p, -q])
    real_roots = roots.real[np.abs(roots.imag) < 1e-9 * p**0.5]
    return max(distance, float(real_roots.max()) if real_roots.max() > 0 else (p / 3) ** 0.5)


def p_equivalence_without_steps(estimate: Estimate, margin: float) -> float:
    """Return the p-value of TOST.

    Without variance, a difference within the margin has the p-value (1 - margin)^N. This is the probability that none
    of N units differs if the true difference is one margin.
    """
    if estimate.standard_error == 0:
        return (1 - margin) ** (estimate.document_df + 1) if abs(estimate.value) < margin else 1.0
    return t_tail((margin - abs(estimate.value)) / estimate.standard_error, estimate.degrees_of_freedom)


# For each rule, the attributes to replace (object and name), and the replacements that switch the rule off.
REPLACEMENTS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "floor": ((Sample, "floor", property(lambda sample: 0.0)),),
    "shrinkage": ((statistics, "MIN_POOLED", float("inf")),),
    "upper limits": ((Estimate, "degrees_of_freedom", property(plain_degrees_of_freedom)),),
    "two against many": ((inference, "missing_seeds", lambda num_a, num_b: (0, 0)),),
    "Holm": ((inference, "holm", list),),
    "levels of looks": (
        (Look, "level", lambda look, error, sides=2: error),
        (Look, "repeated_p", lambda look, p, sides=2: p),
    ),
    "flat prior of futility": ((race, "chance_by_flat_prior", chance_to_settle),),
    "steps": (
        (statistics, "estimate_of", estimate_without_steps),
        (Estimate, "p_equivalence", p_equivalence_without_steps),
        (statistics, "ROUNDING", 0.0),
    ),
    "centred score test": (
        (estimate, "score_variance", uncentred_score_variance),
        (Estimate, "score_df", property(lambda estimate: estimate.document_df)),
        (Estimate, "distance_to_end", uncentred_distance_to_end),
        (estimate, "agreeing_with_test", lambda interval, value, is_significant: interval),
    ),
    "unequal clusters": (
        (Units, "degrees_of_freedom", property(lambda units: float(len(units) - 1))),
        (Units, "variance_factor", property(unweighted_variance_factor)),
    ),
}
OLD = ("floor", "shrinkage", "upper limits", "two against many", "unequal clusters", "steps")


@contextmanager
def without(*rules: str) -> Iterator[None]:
    """Switch rules off. Samples and estimates cache what they compute, so make and use them in the `with` block."""
    with ExitStack() as stack:
        for rule in rules:
            for target, name, replacement in REPLACEMENTS[rule]:
                stack.enter_context(mock.patch.object(target, name, replacement))
        yield


def infer_by_old_rules(samples: Sequence[Sample], pairs: Sequence[Pair], margin: float) -> list[Inference]:
    """Compare pairs by the rules of version 0.x. Call this function inside `without(*OLD)`.

    "Better" needs two tests that are significant after Holm's correction: one over documents and seeds, and one over
    documents only. "Equivalent" and the intervals are not corrected. Version 0.x differed in two details that do not
    matter with more than a few hundred documents. Its covariance over documents came from a bootstrap instead of
    influences. Its test over documents was a permutation test instead of a t-test.
    """
    inferences = infer(samples, pairs, margin)
    documents = holm([p_over_documents(samples[pair.a], samples[pair.b]) for pair in pairs])
    return [
        replace(
            old,
            simultaneous=old.estimate.interval(),
            p_equivalence_holm=old.p_equivalence,
            outcome=outcome_of(
                True,
                old.p_holm is not None and max(old.p_holm, p) < LEVEL,
                old.p_equivalence is not None and old.p_equivalence < LEVEL,
                True,
            ),
        )
        for old, p in zip(inferences, documents, strict=True)
    ]


def p_over_documents(a: Sample, b: Sample) -> float:
    """Return the p-value of the difference between these trained models. It covers only the documents' variation."""
    variance = float(a.own_covariance.mean() + b.own_covariance.mean() - 2 * a.covariance(b).mean())
    difference = float(a.values_S.mean() - b.values_S.mean())
    return Estimate(difference, (), max(0.0, variance), a.units.degrees_of_freedom).p_value()
