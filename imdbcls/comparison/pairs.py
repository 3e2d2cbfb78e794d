"""Compare pairs of groups: difference, intervals, tests, equivalence, power and disagreements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.inference import Inference, Pair, infer, reversed_inference
from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.planned import PlannedStudy
from imdbcls.comparison.power import MAX_SEEDS, chances_to_settle, minimum_detectable_difference, seeds_to_settle
from imdbcls.comparison.race import first_seeds
from imdbcls.comparison.results import Flips, McNemarTest, PairLook, PairResult, WithoutCollapsed
from imdbcls.comparison.samples import sample_of
from imdbcls.comparison.statistics import Sample, Units, exact_mcnemar, permutation_p
from imdbcls.comparison.verdicts import LEVEL


@dataclass(frozen=True)
class SharedDocuments:
    """The documents that two groups share, as row indices into the documents of each group."""

    rows_a: np.ndarray
    rows_b: np.ndarray
    units: Units
    is_all: bool  # whether both groups have only these documents, and the same clusters


def compare_pairs(
    groups: Sequence[Group],
    samples: Sequence[Sample],
    metric: Metric,
    margin: float | None,
    index_pairs: Sequence[tuple[int, int]],
    planned: PlannedStudy | None = None,
) -> tuple[list[PairResult], list[Inference]]:
    """Compare the groups of each index pair. P-values are Holm-corrected for all tested pairs.

    `samples` contains the metric of each group. In a planned study, the result of a pair is its test at the last look
    that tested the pair.
    """
    shared = [shared_documents(groups[i], groups[j], samples[i], samples[j]) for i, j in index_pairs]
    problems = [
        why_untested(groups[i], groups[j], each) or (planned.why_untested(groups[i], groups[j]) if planned else None)
        for (i, j), each in zip(index_pairs, shared, strict=True)
    ]
    pairs = []
    for (i, j), each, problem in zip(index_pairs, shared, problems, strict=True):
        restricted = None if each.is_all or problem else restricted_samples(groups[i], groups[j], each, metric)
        p_documents = None
        if problem is None and metric.name == "accuracy":
            p_documents = permutation_p(
                groups[i].correct_SN[:, each.rows_a], groups[j].correct_SN[:, each.rows_b], each.units
            )
        pairs.append(Pair(i, j, restricted, problem is None, p_documents))
    inferences = infer(samples, pairs, margin)
    num_tests = sum(pair.is_tested for pair in pairs)
    tests = [
        PairTest(inference, pair.samples or (samples[pair.a], samples[pair.b]), LEVEL / max(1, num_tests), num_tests)
        for pair, inference in zip(pairs, inferences, strict=True)
    ]
    if planned is not None:
        tests = [
            planned_test(planned, groups[pair.a], groups[pair.b]) if pair.is_tested else test
            for pair, test in zip(pairs, tests, strict=True)
        ]
    results = [
        pair_result(
            groups[pair.a],
            groups[pair.b],
            test,
            shared=each,
            problem=problem,
            margin=margin,
            metric=metric,
            p_permutation=pair.p_documents,
        )
        for pair, test, each, problem in zip(pairs, tests, shared, problems, strict=True)
    ]
    return results, [test.inference for test in tests]


@dataclass(frozen=True)
class PairTest:
    """The test of a pair: its result, the samples that it used, and the quantities that its power depends on."""

    inference: Inference
    samples: tuple[Sample, Sample]
    level: float  # the strictest level that Holm's method can require
    num_tests: int
    look: PairLook | None = None


def planned_test(planned: PlannedStudy, a: Group, b: Group) -> PairTest:
    """Return the test of two groups at the last look that tested them."""
    i, j = planned.index_of(a), planned.index_of(b)
    assert i is not None and j is not None
    last = planned.last_round(min(i, j), max(i, j))
    assert last is not None
    inference = last.inferences[min(i, j), max(i, j)]
    first, second = (first_seeds(planned.samples[each], last.num_seeds) for each in (i, j))
    level = last.look.level(LEVEL / last.num_tests)
    look = PairLook(
        num_seeds=last.num_seeds,
        max_seeds=len(planned.plan.seeds),
        num_looks=sum((min(i, j), max(i, j)) in each.inferences for each in planned.rounds),
        level=level,
        outlook=planned.outlook(i, j),
    )
    return PairTest(inference if i < j else reversed_inference(inference), (first, second), level, last.num_tests, look)


def pair_result(
    a: Group,
    b: Group,
    test: PairTest,
    *,
    shared: SharedDocuments,
    problem: str | None,
    margin: float | None,
    metric: Metric,
    p_permutation: float | None,
) -> PairResult:
    """Build the `PairResult` of a pair."""
    inference, look = test.inference, test.look
    estimate = inference.estimate
    low, high = within_range(estimate.interval(), metric)
    simultaneous_low, simultaneous_high = within_range(inference.simultaneous, metric)
    may_add_seeds = problem is None and look is None  # a plan fixes the number of seeds
    chances = chances_to_settle(estimate, test.level, margin) if may_add_seeds else np.full(MAX_SEEDS + 1, np.nan)
    seeds_needed = seeds_to_settle(chances, max(len(a.runs), len(b.runs)))
    chance = chances[MAX_SEEDS if seeds_needed is None else seeds_needed]
    correct_a, correct_b = a.correct_SN[:, shared.rows_a], b.correct_SN[:, shared.rows_b]
    return PairResult(
        a=a.name,
        b=b.name,
        higher_is_better=metric.higher_is_better,
        num_seeds=(len(test.samples[0]), len(test.samples[1])),
        num_collapsed=(test.samples[0].num_collapsed, test.samples[1].num_collapsed),
        shared_documents=len(shared.rows_a),
        problem=problem,
        flags=(*a.flags, *b.flags),
        margin=margin,
        difference=estimate.value,
        low=low,
        high=high,
        simultaneous_low=simultaneous_low,
        simultaneous_high=simultaneous_high,
        standard_error=estimate.standard_error,
        degrees_of_freedom=finite(estimate.degrees_of_freedom),
        p_permutation=p_permutation,
        p_value=inference.p_value,
        p_holm=inference.p_holm,
        p_equivalence=inference.p_equivalence,
        p_equivalence_holm=inference.p_equivalence_holm,
        outcome=inference.outcome,
        missing_seeds=inference.missing_seeds,
        without_collapsed=None if problem else without_collapsed_seeds(test, margin),
        mcnemar=() if problem else mcnemar_per_shared_seed(a, b, correct_a, correct_b),
        flips=None if problem else flips(correct_a, correct_b),
        minimum_detectable_difference=(
            minimum_detectable_difference(estimate, test.level) if inference.seeds_varied else None
        ),
        seeds_needed=seeds_needed,
        chance_to_settle=finite(chance),
        look=look,
    )


def without_collapsed_seeds(test: PairTest, margin: float | None) -> WithoutCollapsed | None:
    """Test a pair again without collapsed seeds, which predict the same class for nearly all documents.

    The p-values are corrected as if this pair were the most significant of all tested pairs (Bonferroni), but not for
    the looks of a planned study. Return None if no seed collapsed, or if every seed of a group collapsed.
    """
    kept = [sample.without_collapsed for sample in test.samples]
    nothing_changes = all(len(rest) == len(sample) for rest, sample in zip(kept, test.samples, strict=True))
    if nothing_changes or not all(map(len, kept)):
        return None
    (inference,) = infer(kept, [Pair(0, 1)], margin, test.num_tests)
    low, high = inference.simultaneous
    return WithoutCollapsed(
        num_seeds=(len(kept[0]), len(kept[1])),
        difference=inference.estimate.value,
        simultaneous_low=low,
        simultaneous_high=high,
        p_corrected=inference.p_holm,
        outcome=inference.outcome,
    )


def shared_documents(a: Group, b: Group, sample_a: Sample, sample_b: Sample) -> SharedDocuments:
    """Return the documents that two groups share.

    If both groups recorded clusters, use the clusters of the group that has fewer clusters. If only one group recorded
    clusters, use its clusters.
    """
    if sample_a.units is sample_b.units:
        rows = np.arange(len(a.ids))
        return SharedDocuments(rows, rows, sample_a.units, is_all=True)
    shared, rows_a, rows_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    of_a = None if a.clusters_N is None else a.clusters_N[rows_a]
    of_b = None if b.clusters_N is None else b.clusters_N[rows_b]
    if of_a is None or of_b is None:
        clusters = of_b if of_a is None else of_a
    else:
        clusters = of_a if len(np.unique(of_a)) <= len(np.unique(of_b)) else of_b
    return SharedDocuments(rows_a, rows_b, Units(len(shared), clusters), is_all=False)


def restricted_samples(a: Group, b: Group, shared: SharedDocuments, metric: Metric) -> tuple[Sample, Sample]:
    return sample_of(a, metric, shared.units, shared.rows_a), sample_of(b, metric, shared.units, shared.rows_b)


def why_untested(a: Group, b: Group, shared: SharedDocuments) -> str | None:
    """Return the reason why this pair cannot be tested, as a clause, or None if it can be tested."""
    if a.split_hash != b.split_hash:
        return "their training, validation or test documents differ (split_hash), and this can also cause a difference"
    if len(shared.rows_a) == 0:
        return "they share no test documents, so no paired test is possible"
    if not np.array_equal(a.labels_N[shared.rows_a], b.labels_N[shared.rows_b]):
        return "their labels for the shared documents differ"
    if len(shared.units) < 2:
        return "they share only one document or one cluster, so the result does not generalize to other documents"
    return None


def mcnemar_per_shared_seed(
    a: Group, b: Group, correct_a: np.ndarray, correct_b: np.ndarray
) -> tuple[McNemarTest, ...]:
    """Run McNemar's exact test for each seed that both groups have. Each test compares two models, not groups."""
    return tuple(
        McNemarTest(seed, *exact_mcnemar(correct_a[a.seeds.index(seed)], correct_b[b.seeds.index(seed)]))
        for seed in sorted(set(a.seeds) & set(b.seeds))
    )


def flips(correct_a: np.ndarray, correct_b: np.ndarray) -> Flips:
    """Count documents that only one group gets right: on average over pairs of seeds, and in every seed."""
    share_a, share_b = correct_a.mean(axis=0, dtype=np.float64), correct_b.mean(axis=0, dtype=np.float64)
    return Flips(
        a_only=float((share_a * (1 - share_b)).sum()),
        b_only=float((share_b * (1 - share_a)).sum()),
        a_only_in_every_seed=int(((share_a == 1) & (share_b == 0)).sum()),
        b_only_in_every_seed=int(((share_b == 1) & (share_a == 0)).sum()),
    )


def within_range(interval: tuple[float, float], metric: Metric) -> tuple[float, float]:
    """Clip an interval to the differences that are possible."""
    return max(interval[0], -metric.upper), min(interval[1], metric.upper)


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
