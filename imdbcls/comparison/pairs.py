"""Compare groups pair by pair: difference, interval, paired tests, correction, equivalence and power."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from imdbcls.comparison.power import minimum_detectable_difference, seeds_needed
from imdbcls.comparison.statistics import (
    DRAW_SEED,
    Estimate,
    covariance_over,
    difference_over_seeds,
    document_draws,
    exact_mcnemar,
    holm,
    num_independent,
    permutation_p,
)
from imdbcls.comparison.study import Group
from imdbcls.comparison.verdicts import verdict

LEVEL = 0.05


def compare_pairs(
    groups: Iterable[tuple[Group, Group]], draws: dict[str, np.ndarray], margin: float
) -> list[dict[str, Any]]:
    """These pairs of groups, `a` and `b`, corrected for all of them together.

    `draws` holds each group's accuracies over draws of documents, by its name.
    """
    pairs = [compare_pair(a, b, draws[a.name], draws[b.name], margin) for a, b in groups]
    for p, adjusted in (("p_permutation", "p_holm"), ("p_hierarchical", "p_hierarchical_holm")):
        tested = [pair for pair in pairs if pair[p] is not None]
        for pair, value in zip(tested, holm([pair[p] for pair in tested]), strict=True):
            pair[adjusted] = value
    num_tested = max(1, sum(pair["p_permutation"] is not None for pair in pairs))
    for pair in pairs:
        add_power(pair, pair.pop("estimate"), num_tested, margin)
        pair["significant"] = is_significant(pair)
        pair["verdict"] = verdict(pair)
    return pairs


def compare_pair(a: Group, b: Group, draws_a: np.ndarray, draws_b: np.ndarray, margin: float) -> dict[str, Any]:
    """One pair's figures before correction; p-values are None where the pair is not tested, and `problem` says why."""
    shared, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    clusters = shared_clusters(a, b, in_a, in_b)
    num_drawn = num_independent(len(shared), clusters)
    if len(shared) == 0:  # nothing is drawn together
        correct_a, correct_b = a.correct_SN, b.correct_SN
        draws_b = document_draws(correct_b.T, b.clusters_N, seed=DRAW_SEED + 1)
        num_drawn = min(a.num_independent, b.num_independent)
    else:
        correct_a, correct_b = a.correct_SN[:, in_a], b.correct_SN[:, in_b]
        if not (len(shared) == len(a.ids) == len(b.ids) and same(a.clusters_N, b.clusters_N)):
            draws_a, draws_b = document_draws(correct_a.T, clusters), document_draws(correct_b.T, clusters)
    covariance = covariance_over(np.concatenate([draws_a, draws_b], axis=1))
    estimate = difference_over_seeds(accuracies(correct_a), accuracies(correct_b), covariance, num_drawn)
    low, high = estimate.interval()
    problem = why_untested(a, b, a.labels_N[in_a], b.labels_N[in_b], num_drawn)
    several_seeds = min(estimate.num_seeds) > 1
    p_equivalence = None if problem else estimate.p_equivalence(margin)
    return {
        "a": a.name,
        "b": b.name,
        "difference": estimate.value,
        "low": float(low),
        "high": float(high),
        "standard_error": estimate.standard_error,
        "degrees_of_freedom": finite(estimate.degrees_of_freedom),
        "p_permutation": None if problem else permutation_p(correct_a, correct_b, clusters),
        "p_holm": None,
        "p_hierarchical": estimate.p_value() if several_seeds and not problem else None,
        "p_hierarchical_holm": None,
        "mcnemar": [] if problem else mcnemar_per_shared_seed(a, b, correct_a, correct_b),
        "flips": None if problem else flips(correct_a, correct_b),
        "margin": margin,
        "p_equivalence": p_equivalence,
        "equivalent": None if p_equivalence is None else p_equivalence < LEVEL,
        "shared_documents": len(shared),
        "num_seeds": list(estimate.num_seeds),
        "seeds_varied": several_seeds,
        "problem": problem,
        "flags": [*a.flags, *b.flags],
        "estimate": estimate,
    }


def shared_clusters(a: Group, b: Group, in_a: np.ndarray, in_b: np.ndarray) -> np.ndarray | None:
    """The clusters of the documents that both answered; where each recorded its own, the fewer and larger ones."""
    ours = None if a.clusters_N is None else a.clusters_N[in_a]
    theirs = None if b.clusters_N is None else b.clusters_N[in_b]
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    return ours if len(np.unique(ours)) <= len(np.unique(theirs)) else theirs


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other is None or (one is not None and other is not None and np.array_equal(one, other))


def accuracies(correct_SN: np.ndarray) -> np.ndarray:
    return correct_SN.mean(axis=1, dtype=np.float64)


def why_untested(a: Group, b: Group, labels_a: np.ndarray, labels_b: np.ndarray, num_drawn: int) -> str | None:
    """The reason why this pair gets no test, or None; the labels are those of the documents that both share."""
    if a.split_hash != b.split_hash:
        return (
            "their training, validation or test documents differ (split_hash), so a difference need not be the heads'"
        )
    if len(labels_a) == 0:
        return "they share no test document, so nothing is paired"
    if not np.array_equal(labels_a, labels_b):
        return "they give the same documents different labels"
    if num_drawn < 2:
        return "all documents that both answered belong together, so nothing is known of others"
    return None


def mcnemar_per_shared_seed(a: Group, b: Group, correct_a: np.ndarray, correct_b: np.ndarray) -> list[dict[str, Any]]:
    """One exact test per seed that both groups have. Each is about two trained models, not about the heads."""
    tests = []
    for seed in sorted(set(a.seeds) & set(b.seeds)):
        a_only, b_only, p = exact_mcnemar(correct_a[a.seeds.index(seed)], correct_b[b.seeds.index(seed)])
        tests.append({"seed": seed, "a_only": a_only, "b_only": b_only, "p": p})
    return tests


def flips(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, float]:
    """Documents that one gets right and the other wrong: on average over all pairs of seeds, and in every seed."""
    share_a, share_b = correct_a.mean(axis=0, dtype=np.float64), correct_b.mean(axis=0, dtype=np.float64)
    return {
        "a_only": float((share_a * (1 - share_b)).sum()),
        "b_only": float((share_b * (1 - share_a)).sum()),
        "a_only_in_every_seed": int(((share_a == 1) & (share_b == 0)).sum()),
        "b_only_in_every_seed": int(((share_b == 1) & (share_a == 0)).sum()),
    }


def add_power(pair: dict[str, Any], estimate: Estimate, num_tested: int, margin: float) -> None:
    """Power at the strictest level that Holm's correction may ask of a pair: 5 % divided by the number of pairs.

    `underpowered`: a difference of the margin would likely be missed. None where seeds were not varied, whose spread
    is then not known.
    """
    level = LEVEL / num_tested
    detectable = minimum_detectable_difference(estimate, level) if pair["seeds_varied"] else None
    pair["minimum_detectable_difference"] = detectable
    pair["underpowered"] = None if detectable is None else detectable > margin
    pair["seeds_needed"] = None if pair["problem"] else seeds_needed(estimate, level, margin)


def is_significant(pair: dict[str, Any]) -> bool:
    """Both kinds of evidence where seeds were varied; with one seed the documents' alone, for these trained models."""
    p_values = [pair["p_holm"]] + ([pair["p_hierarchical_holm"]] if pair["seeds_varied"] else [])
    return all(p is not None and p < LEVEL for p in p_values)


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
