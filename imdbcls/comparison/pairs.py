"""Compare pairs of groups: differences, intervals, paired tests, Holm correction, equivalence and power."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imdbcls.comparison.power import minimum_detectable_difference, seeds_needed
from imdbcls.comparison.results import Flips, McNemarTest, PairResult
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
from imdbcls.comparison.verdicts import LEVEL


@dataclass(frozen=True)
class PairTests:
    """The tests of one pair, before Holm correction. If `problem` is set, the pair is not tested: p-values are None."""

    a: Group
    b: Group
    estimate: Estimate
    shared_documents: int
    problem: str | None
    p_permutation: float | None
    p_hierarchical: float | None
    mcnemar: tuple[McNemarTest, ...]
    flips: Flips | None


def compare_pairs(
    groups: Iterable[tuple[Group, Group]], draws: Mapping[str, np.ndarray], margin: float
) -> tuple[PairResult, ...]:
    """Compare each pair of groups. The p-values are corrected for all pairs with Holm's method.

    `draws` maps the name of a group to its bootstrap accuracies (B, S).
    """
    pairs = [paired_tests(a, b, draws[a.name], draws[b.name]) for a, b in groups]
    p_holm = corrected([pair.p_permutation for pair in pairs])
    p_hierarchical_holm = corrected([pair.p_hierarchical for pair in pairs])
    num_tested = sum(pair.problem is None for pair in pairs)
    return tuple(
        pair_result(pair, p_holm[i], p_hierarchical_holm[i], margin, num_tested) for i, pair in enumerate(pairs)
    )


def corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-corrected p-values. None stays None and does not count as a test."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def paired_tests(a: Group, b: Group, draws_a: np.ndarray, draws_b: np.ndarray) -> PairTests:
    """Estimate and test the difference between two groups.

    `draws_a` and `draws_b` are the bootstrap accuracies (B, S) of the two groups.
    """
    shared, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    clusters = shared_clusters(a, b, in_a, in_b)
    num_units = num_independent(len(shared), clusters)
    if len(shared) == 0:  # without shared documents, the documents of the two groups are resampled independently
        correct_a, correct_b = a.correct_SN, b.correct_SN
        draws_b = document_draws(correct_b.T, b.clusters_N, seed=DRAW_SEED + 1)
        num_units = min(a.num_independent, b.num_independent)
    else:
        correct_a, correct_b = a.correct_SN[:, in_a], b.correct_SN[:, in_b]
        if not (len(shared) == len(a.ids) == len(b.ids) and same_clusters(a.clusters_N, b.clusters_N)):
            draws_a, draws_b = document_draws(correct_a.T, clusters), document_draws(correct_b.T, clusters)
    covariance = covariance_over(np.concatenate([draws_a, draws_b], axis=1))
    estimate = difference_over_seeds(accuracies(correct_a), accuracies(correct_b), covariance, num_units)
    problem = why_untested(a, b, a.labels_N[in_a], b.labels_N[in_b], num_units)
    return PairTests(
        a=a,
        b=b,
        estimate=estimate,
        shared_documents=len(shared),
        problem=problem,
        p_permutation=None if problem else permutation_p(correct_a, correct_b, clusters),
        p_hierarchical=estimate.p_value() if min(estimate.num_seeds) > 1 and not problem else None,
        mcnemar=() if problem else mcnemar_per_shared_seed(a, b, correct_a, correct_b),
        flips=None if problem else flips(correct_a, correct_b),
    )


def pair_result(
    pair: PairTests, p_holm: float | None, p_hierarchical_holm: float | None, margin: float, num_tested: int
) -> PairResult:
    """Return the result of a pair: its tests, with the corrected p-values, equivalence and power.

    Power is computed at the strictest level that Holm's method can require: 5 % divided by the number of tested pairs.
    """
    estimate, level = pair.estimate, LEVEL / max(1, num_tested)
    low, high = estimate.interval()
    num_a, num_b = estimate.num_seeds
    several_seeds = min(num_a, num_b) > 1
    return PairResult(
        a=pair.a.name,
        b=pair.b.name,
        num_seeds=(num_a, num_b),
        shared_documents=pair.shared_documents,
        problem=pair.problem,
        flags=(*pair.a.flags, *pair.b.flags),
        margin=margin,
        difference=estimate.value,
        low=float(low),
        high=float(high),
        standard_error=estimate.standard_error,
        degrees_of_freedom=finite(estimate.degrees_of_freedom),
        p_permutation=pair.p_permutation,
        p_holm=p_holm,
        p_hierarchical=pair.p_hierarchical,
        p_hierarchical_holm=p_hierarchical_holm,
        p_equivalence=None if pair.problem else estimate.p_equivalence(margin),
        mcnemar=pair.mcnemar,
        flips=pair.flips,
        minimum_detectable_difference=minimum_detectable_difference(estimate, level) if several_seeds else None,
        seeds_needed=None if pair.problem else seeds_needed(estimate, level, margin),
    )


def shared_clusters(a: Group, b: Group, in_a: np.ndarray, in_b: np.ndarray) -> np.ndarray | None:
    """Return the cluster of each shared document, or None if neither group recorded clusters.

    If the two groups recorded different clusters, return those of the group that has fewer clusters.
    """
    of_a = None if a.clusters_N is None else a.clusters_N[in_a]
    of_b = None if b.clusters_N is None else b.clusters_N[in_b]
    if of_a is None or of_b is None:
        return of_b if of_a is None else of_a
    return of_a if len(np.unique(of_a)) <= len(np.unique(of_b)) else of_b


def same_clusters(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other is None or (one is not None and other is not None and np.array_equal(one, other))


def accuracies(correct_SN: np.ndarray) -> np.ndarray:
    return correct_SN.mean(axis=1, dtype=np.float64)


def why_untested(a: Group, b: Group, labels_a: np.ndarray, labels_b: np.ndarray, num_units: int) -> str | None:
    """Return the reason why this pair is not tested, or None if it is tested.

    `labels_a` and `labels_b` are the labels that the two groups recorded for the shared documents.
    """
    if a.split_hash != b.split_hash:
        return (
            "their training, validation or test documents differ (split_hash), so a difference in accuracy may not be "
            "caused by the head"
        )
    if len(labels_a) == 0:
        return "they share no test documents, so no paired test is possible"
    if not np.array_equal(labels_a, labels_b):
        return "their labels for the shared documents differ"
    if num_units < 2:
        return "all shared documents are in one cluster, so no test can generalize to other documents"
    return None


def mcnemar_per_shared_seed(
    a: Group, b: Group, correct_a: np.ndarray, correct_b: np.ndarray
) -> tuple[McNemarTest, ...]:
    """Run McNemar's test for each seed that both groups have. Each test compares two trained models, not the groups."""
    return tuple(
        McNemarTest(seed, *exact_mcnemar(correct_a[a.seeds.index(seed)], correct_b[b.seeds.index(seed)]))
        for seed in sorted(set(a.seeds) & set(b.seeds))
    )


def flips(correct_a: np.ndarray, correct_b: np.ndarray) -> Flips:
    """Count the documents that only one group gets right: averaged over all pairs of seeds, and in every seed."""
    share_a, share_b = correct_a.mean(axis=0, dtype=np.float64), correct_b.mean(axis=0, dtype=np.float64)
    return Flips(
        a_only=float((share_a * (1 - share_b)).sum()),
        b_only=float((share_b * (1 - share_a)).sum()),
        a_only_in_every_seed=int(((share_a == 1) & (share_b == 0)).sum()),
        b_only_in_every_seed=int(((share_b == 1) & (share_a == 0)).sum()),
    )


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
