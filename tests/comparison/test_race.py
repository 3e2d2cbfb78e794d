"""The replay of a planned study: which groups continue, which groups stop, and why."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from draws import sample_of_outcomes
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import without

from imdbcls.comparison.race import Round, Standing, State, race
from imdbcls.comparison.sequential import Look
from imdbcls.comparison.statistics import Sample, Units
from imdbcls.comparison.verdicts import Outcome
from imdbcls.runs.plan import Plan, PlannedGroup

pytestmark = pytest.mark.usefixtures("fast")

NUM_DOCUMENTS = 400
UNITS = Units(NUM_DOCUMENTS)


def plan_of(num_groups: int, num_seeds: int = 6, **changes: object) -> Plan:
    groups = tuple(PlannedGroup(name=f"g{i}", group_hash=f"h{i}", overrides=()) for i in range(num_groups))
    fields = {"first_look": 3, "metric": "accuracy", "margin": 0.003, "futility": None}
    return Plan(groups=groups, seeds=tuple(range(num_seeds)), **{**fields, **changes})


def head(mean: float, sd: float = 0.002, *, num_seeds: int = 6, documents: float = 0.002, seed: int = 0) -> Sample:
    """Return a sample that has exactly this mean after 3, 5, 7, … seeds.

    `documents` is the standard error of the mean over documents. The effects of documents are independent between heads
    with different means.
    """
    pattern_S = sd * np.array([1.0, -1.0, 0.0] + [1.0, -1.0] * num_seeds)[:num_seeds]
    of_documents_N = np.random.default_rng([seed, round(1e6 * abs(mean))]).standard_normal(NUM_DOCUMENTS)
    influence_N = of_documents_N - of_documents_N.mean()
    influence_N *= documents / (np.square(influence_N).sum() * UNITS.variance_factor) ** 0.5
    return Sample(mean + pattern_S, np.tile(influence_N[:, None], num_seeds), UNITS)


def states(rounds: Sequence[Round]) -> list[State]:
    return [standing.state for standing in rounds[-1].standings]


def prefix(sample: Sample, num_seeds: int) -> Sample | None:
    return sample.seeds(np.arange(num_seeds)) if num_seeds else None


def test_worse_group_is_dropped_at_the_first_look_that_decides() -> None:
    rounds = race([head(0.9), head(0.7), head(0.899)], plan_of(3))
    assert rounds[0].num_seeds == 3 and rounds[0].leader == 0 and rounds[0].dropped == [1]
    assert rounds[0].standings[1] == Standing(State.WORSE, 0, 3)
    assert [each.running for each in rounds] == [[0, 2]] * 4
    assert all(list(each.inferences) == [(0, 2)] for each in rounds[1:])
    assert [each.is_over for each in rounds] == [False, False, False, True]


def test_lower_can_be_better() -> None:
    samples = [head(0.9), head(0.7)]
    assert states(race(samples, plan_of(2))) == [State.RUNNING, State.WORSE]
    rounds = race(samples, plan_of(2, metric="loss"), higher_is_better=False)
    assert states(rounds) == [State.WORSE, State.RUNNING] and rounds[-1].leader == 1 and rounds[-1].is_over


def test_dropped_group_names_the_best_of_the_better_groups() -> None:
    """The best group comes last in the plan, and the second group is dropped at the same look."""
    rounds = race([head(0.6), head(0.75), head(0.9)], plan_of(3))
    assert rounds[0].standings == (Standing(State.WORSE, 2, 3), Standing(State.WORSE, 2, 3), Standing())
    assert rounds[0].is_over and len(rounds) == 1


def test_group_is_parked_if_it_is_equivalent_to_the_leader() -> None:
    tight = {"sd": 0.0001, "documents": 0.0001}
    rounds = race([head(0.9, **tight), head(0.8999, **tight), head(0.7, **tight)], plan_of(3))
    assert rounds[0].standings == (Standing(), Standing(State.EQUIVALENT, 0, 3), Standing(State.WORSE, 0, 3))
    assert rounds[0].is_over
    without_margin = race([head(0.9, **tight), head(0.89999, **tight)], plan_of(2, margin=None))
    assert states(without_margin) == [State.RUNNING, State.RUNNING] and len(without_margin) == 4


def test_group_without_prospects_is_parked_only_with_futility() -> None:
    samples = [head(0.9, documents=0.01), head(0.9001, documents=0.01)]
    assert states(race(samples, plan_of(2))) == [State.RUNNING] * 2
    rounds = race(samples, plan_of(2, futility=0.1))
    standing = rounds[0].standings[0]
    assert rounds[0].is_over and standing.state is State.FUTILE and standing.other == 1 and standing.num_seeds == 3
    assert standing.chance is not None and 0 <= standing.chance < 0.1


def test_last_look_parks_no_group_for_futility() -> None:
    samples = [head(0.9, documents=0.01), head(0.9001, documents=0.01)]
    assert states(race(samples, plan_of(2, first_look=6, futility=0.1))) == [State.RUNNING] * 2


def test_futility_changes_no_verdict_before_it_stops_a_group() -> None:
    """Futility only stops groups, so a study that uses futility finds a subset of the differences."""
    generator = np.random.default_rng(4)
    for _ in range(20):
        samples = [head(0.9 - 0.004 * generator.random(), seed=i) for i in range(4)]
        plain, futile = race(samples, plan_of(4)), race(samples, plan_of(4, futility=0.1))
        for before, after in zip(plain, futile, strict=False):
            if any(standing.state is State.FUTILE for standing in after.standings):
                break
            assert before.standings == after.standings


def test_equal_means_are_not_decided() -> None:
    rounds = race([head(0.9), head(0.9)], plan_of(2, margin=None))
    assert len(rounds) == 4 and states(rounds) == [State.RUNNING] * 2
    assert rounds[-1].leader == 0
    assert rounds[-1].inferences[0, 1].p_holm == pytest.approx(1.0)


def test_groups_without_any_variance() -> None:
    exact = {"sd": 0.0, "documents": 0.0}
    assert states(race([head(0.9, **exact), head(0.8, **exact)], plan_of(2))) == [State.RUNNING, State.WORSE]
    assert states(race([head(0.9, **exact), head(0.9, **exact)], plan_of(2, margin=None))) == [State.RUNNING] * 2


def test_undefined_metric_decides_nothing() -> None:
    """AUROC is NaN if a class has no documents. Its variance is then zero, so any difference would be significant."""
    undefined = Sample(np.full(6, np.nan), np.full((NUM_DOCUMENTS, 6), np.nan), UNITS)
    for futility in (None, 0.1):
        rounds = race([undefined] * 3, plan_of(3, metric="auroc", futility=futility))
        assert {State.WORSE, State.EQUIVALENT}.isdisjoint(states(rounds))


def test_collapsed_seed_delays_the_verdict_of_its_group_only() -> None:
    def with_collapse(sample: Sample) -> Sample:
        values_S = sample.values_S.copy()
        values_S[1] = 0.5
        return Sample(values_S, sample.sums_GS, UNITS, np.arange(6) == 1)

    rounds = race([head(0.9), head(0.7), with_collapse(head(0.9, seed=1))], plan_of(3))
    assert rounds[0].standings[1] == Standing(State.WORSE, 0, 3)
    assert rounds[0].inferences[0, 2].estimate.value > 0.1 and rounds[0].standings[2].state is State.RUNNING


def test_failed_group_stops_and_the_others_continue() -> None:
    samples = [head(0.9), prefix(head(0.9), 4), head(0.899)]
    waiting = race(samples, plan_of(3))
    assert [each.num_seeds for each in waiting] == [3, 4] and not waiting[-1].is_over
    rounds = race(samples, plan_of(3), failed={1})
    assert rounds[2].standings[1] == Standing(State.FAILED, None, 5) and rounds[2].dropped == [1]
    assert list(rounds[2].inferences) == [(0, 2)] and len(rounds) == 4
    assert rounds[3].num_tests == 3  # a failed group does not make the tests of the other groups less strict
    assert race(samples, plan_of(3), failed={0, 2})[:2] == waiting  # a later failure changes no earlier look


def test_study_is_over_if_one_group_or_none_is_left() -> None:
    one = race([head(0.9), None], plan_of(2), failed={1})
    assert len(one) == 1 and one[0].is_over and one[0].leader == 0 and not one[0].inferences
    assert states(one) == [State.RUNNING, State.FAILED]
    none = race([None, None], plan_of(2), failed={0, 1})
    assert len(none) == 1 and none[0].is_over and none[0].leader is None and states(none) == [State.FAILED] * 2
    assert race([None, None], plan_of(2)) == [] and race([head(0.9), None], plan_of(2), failed={0}) == []


def test_plan_with_one_look_at_the_end_tests_at_5_percent() -> None:
    (only,) = race([head(0.9), head(0.8999)], plan_of(2, first_look=6, margin=None))
    assert only.num_seeds == 6 and only.is_over
    assert only.inferences[0, 1].p_holm == pytest.approx(only.inferences[0, 1].p_value, rel=0.002)


def test_decided_pairs_make_the_other_tests_less_strict() -> None:
    rounds = race([head(0.9), head(0.7), head(0.899), head(0.8925)], plan_of(4, margin=None))
    assert [each.num_tests for each in rounds] == [6, 3, 3, 3]
    inference = rounds[1].inferences[0, 3]
    assert inference.p_value == min(each.p_value for each in rounds[1].inferences.values() if each.p_value is not None)
    assert inference.p_holm == pytest.approx(3 * rounds[1].look.repeated_p(inference.p_value))
    assert inference.p_holm < 1


def test_intervals_hold_for_all_planned_pairs_after_some_are_decided() -> None:
    rounds = race([head(0.9), head(0.7), head(0.899)], plan_of(3, margin=None))
    assert rounds[-1].num_tests == 1
    inference = rounds[-1].inferences[0, 2]
    expected = inference.estimate.interval(1 - rounds[-1].look.level(0.05 / 3))
    assert inference.outcome is Outcome.UNDECIDED and inference.simultaneous == pytest.approx(expected)


def test_equivalent_pairs_that_are_tested_again_are_still_counted() -> None:
    """Groups 1 and 2 are equivalent at the first look. Neither is the leader, so both continue.

    Their equivalence decides one of six pairs. At the next look, the pair has the smallest p-value again. The p-values
    of the other pairs must be corrected for the five undecided pairs, as if the decided pair were not tested.
    """
    shared_N = head(0.9).sums_GS[:, 0]
    values_S = 0.9 - 0.0001 * np.array([1.0, -1.0, 0.0, 1.0, -1.0, 0.0])
    close = [Sample(values_S, np.tile(shared_N[:, None], 6), UNITS)] * 2
    samples = [head(0.9015, seed=5), *close, prefix(head(0.9, seed=6), 3)]
    rounds = race(samples, plan_of(4, margin=0.008), failed={3})
    assert rounds[0].running == [0, 1, 2, 3] and rounds[1].standings[3].state is State.FAILED
    equivalent = rounds[0].inferences[1, 2]
    assert equivalent.p_equivalence_holm is not None and equivalent.p_equivalence_holm < 0.05
    tested = rounds[1].inferences
    p_values = sorted(each.p_equivalence for each in tested.values() if each.p_equivalence is not None)
    assert tested[1, 2].p_equivalence == p_values[0] and len(p_values) == 3
    others = min(tested[0, 1].p_equivalence_holm or 0, tested[0, 2].p_equivalence_holm or 0)
    assert 0.05 < others < 1 and others == pytest.approx(5 * rounds[1].look.repeated_p(p_values[1], sides=1))


def test_seeds_beyond_a_look_do_not_matter() -> None:
    """A study that was killed and continued makes the same decisions as a study that never stopped."""
    samples = random_samples(5, 8, np.random.default_rng(8))
    plan = plan_of(5, 8, futility=0.1)
    whole = race(samples, plan)
    assert {State.WORSE, State.FUTILE, State.RUNNING} <= {
        standing.state for each in whole for standing in each.standings
    }
    for num_seeds in range(9):
        part = race([prefix(each, num_seeds) for each in samples], plan)
        assert [each.standings for each in part] == [each.standings for each in whole if each.num_seeds <= num_seeds]


def test_seeds_beyond_a_look_do_not_matter_with_clusters() -> None:
    """The design effect of a look uses only the seeds of this look."""
    num_documents, num_seeds = 600, 6
    clusters_N = np.arange(num_documents) % 60
    units = Units(num_documents, clusters_N)
    plan = plan_of(3, num_seeds, first_look=2, margin=0.03, futility=0.1)
    for study in (6, 118):
        generator = np.random.default_rng(study)
        difficulty_N = generator.normal(size=num_documents) + 0.3 * generator.normal(size=60)[clusters_N]
        outcomes = []
        for _ in range(3):
            of_group_N = difficulty_N + 0.25 * generator.normal(size=num_documents)
            of_run_SN = of_group_N + 0.3 * generator.normal(size=(num_seeds, num_documents))
            of_seed_S = generator.normal(scale=0.01, size=num_seeds)
            outcomes.append(of_run_SN + of_seed_S[:, None] > -1.3)
        whole = race([sample_of_outcomes(correct_SN, units) for correct_SN in outcomes], plan)
        for trained in range(2, num_seeds + 1):
            part = race([sample_of_outcomes(correct_SN[:trained], units) for correct_SN in outcomes], plan)
            assert [states([each]) for each in part] == [states([each]) for each in whole[: len(part)]]


def random_samples(num_groups: int, num_seeds: int, generator: np.random.Generator) -> list[Sample]:
    samples = []
    for _ in range(num_groups):
        values_S = 0.9 - 0.04 * generator.random() + 0.003 * generator.standard_normal(num_seeds)
        influence_NS = 0.03 * generator.standard_normal((NUM_DOCUMENTS, 1)) + 0.02 * generator.standard_normal(
            (NUM_DOCUMENTS, num_seeds)
        )
        samples.append(Sample(values_S, influence_NS - influence_NS.mean(axis=0), UNITS))
    return samples


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_groups=st.integers(2, 5), futility=st.sampled_from([None, 0.1, 0.6]))
def test_order_of_the_groups_does_not_matter(seed: int, num_groups: int, futility: float | None) -> None:
    generator = np.random.default_rng(seed)
    samples = random_samples(num_groups, 6, generator)
    order = [int(i) for i in generator.permutation(num_groups)]
    plain = race(samples, plan_of(num_groups, futility=futility))
    permuted = race([samples[i] for i in order], plan_of(num_groups, futility=futility))
    assert len(plain) == len(permuted)
    for expected, found in zip(plain, permuted, strict=True):
        assert [expected.standings[i].state for i in order] == [each.state for each in found.standings]
        assert expected.leader == order[found.leader or 0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_groups=st.integers(2, 5),
    futility=st.sampled_from([None, 0.1, 0.6]),
    failed=st.sets(st.integers(0, 4)),
    num_seeds=st.lists(st.integers(0, 6), min_size=5, max_size=5),
)
def test_every_replay_keeps_the_rules(
    seed: int, num_groups: int, futility: float | None, failed: set[int], num_seeds: list[int]
) -> None:
    samples = random_samples(num_groups, 6, np.random.default_rng(seed))
    part = [prefix(each, count) for each, count in zip(samples, num_seeds, strict=False)]
    rounds = race(part, plan_of(num_groups, futility=futility), failed=failed)
    before = [Standing()] * num_groups
    for index, each in enumerate(rounds):
        assert each.num_seeds == 3 + index and each.is_over == (index == 3 or len(each.running) < 2)
        assert each.is_over is False or each is rounds[-1]
        for old, new in zip(before, each.standings, strict=True):
            assert old.state is State.RUNNING or new == old  # a decision is final
        tested = [i for i, old in enumerate(before) if old.state is State.RUNNING and num_seeds[i] >= each.num_seeds]
        assert list(each.inferences) == list(combinations(tested, 2))
        assert (each.leader is None) == (not tested)
        if each.leader is not None:
            assert each.standings[each.leader].state is State.RUNNING
        for i, (old, new) in enumerate(zip(before, each.standings, strict=True)):
            if new.state is State.WORSE and old.state is State.RUNNING:
                assert new.other is not None
                pair = each.inferences[min(i, new.other), max(i, new.other)]
                assert pair.outcome is Outcome.BETTER and (pair.estimate.value > 0) == (new.other < i)
        before = list(each.standings)


def test_looks_have_the_levels_of_the_plan() -> None:
    rounds = race([head(0.9, documents=0.01), head(0.8999, documents=0.01)], plan_of(2, 10))
    found = [each.look.level(0.05) for each in rounds[:3]]
    assert found == pytest.approx([0.0000855, 0.000760, 0.00280], rel=0.01)
    three = race([head(0.9, documents=0.01)] * 3, plan_of(3, 10))
    assert three[0].look == Look(tuple(n / 10 for n in range(3, 11)), 0, "power")
    assert three[0].look.level(0.05) == pytest.approx(0.05 * 0.3**2)


def test_without_levels_of_looks_a_difference_is_found_earlier() -> None:
    samples = [head(0.9, documents=0.0002), head(0.893, documents=0.0002)]
    planned = race(samples, plan_of(2, 10))
    with without("levels of looks"):
        naive = race(samples, plan_of(2, 10))
    assert len(naive) == 1 < len(planned)
