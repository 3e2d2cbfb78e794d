"""Apply the plan of a study (`plan.json`) to its groups: the looks so far, and the verdict on each pair."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.race import Round, Standing, State, race
from imdbcls.comparison.results import PlanSummary
from imdbcls.comparison.run_files import BadRunError, sanitize
from imdbcls.comparison.samples import is_undefined, sample_of, units_of
from imdbcls.comparison.statistics import Sample, Units
from imdbcls.comparison.study import Study
from imdbcls.printable import counted
from imdbcls.runs.plan import Plan


@dataclass(frozen=True)
class PlannedStudy:
    """The looks at a planned study. Group indices refer to `Plan.groups`, not to `Study.groups`."""

    plan: Plan
    groups: tuple[Group | None, ...]  # one per planned group; None: no finished run
    samples: tuple[Sample | None, ...]  # first planned seeds of each planned group; None: first seed unfinished
    rounds: tuple[Round, ...]

    @property
    def standings(self) -> tuple[Standing, ...]:
        return self.rounds[-1].standings if self.rounds else tuple(Standing() for _ in self.plan.groups)

    @property
    def is_over(self) -> bool:
        return bool(self.rounds) and self.rounds[-1].is_over

    def index_of(self, group: Group) -> int | None:
        """Return the index of a group in the plan, or None if the plan does not have the group."""
        return next((i for i, planned in enumerate(self.groups) if planned is group), None)

    def name_of(self, i: int) -> str:
        group = self.groups[i]
        return sanitize(self.plan.groups[i].name) if group is None else group.name

    def last_round(self, i: int, j: int) -> Round | None:
        """Return the last look that tested the pair (i, j), with i < j, or None if no look tested it."""
        return next((each for each in reversed(self.rounds) if (i, j) in each.inferences), None)

    def why_untested(self, a: Group, b: Group) -> str | None:
        """Return the reason why no look has tested this pair, as a clause, or None if a look has tested it."""
        i, j = self.index_of(a), self.index_of(b)
        for group, index in ((a, i), (b, j)):
            if index is None:
                return f"{group.name} is not in plan.json"
        assert i is not None and j is not None
        if self.last_round(min(i, j), max(i, j)) is not None:
            return None
        failed = [group.name for group, index in ((a, i), (b, j)) if self.standings[index].state is State.FAILED]
        if failed:
            return f"a run of {failed[0]} failed before the first planned look"
        return f"the first planned look is after {self.plan.first_look} seeds per group"

    def outlook(self, i: int, j: int) -> str:
        """Return how the study continues for an undecided pair, as a clause."""
        stopped = [each for each in (i, j) if self.standings[each].state is not State.RUNNING]
        if stopped:
            return f"the study ended for {self.name_of(stopped[0])}: {self.reason(stopped[0])}"
        if self.is_over:
            return f"all {len(self.plan.seeds)} planned seeds are trained: use more test documents in another study"
        return f"the study continues to at most {len(self.plan.seeds)} seeds per group"

    def reason(self, i: int) -> str:
        """Return the reason why a group is stopped, as a clause without the name of the group."""
        standing = self.standings[i]
        seeds = f"after {standing.num_seeds} seeds"
        other = "" if standing.other is None else self.name_of(standing.other)
        match standing.state:
            case State.WORSE:
                return f"worse than {other} {seeds}"
            case State.EQUIVALENT:
                return f"equivalent to {other} {seeds}"
            case State.FUTILE:
                chance = f"{100 * (standing.chance or 0.0):.0f} %"
                return (
                    f"{seeds}, the chance that all planned seeds give a verdict in the comparison with {other} was "
                    f"{chance}"
                )
            case State.FAILED:
                return f"a run failed before the look at {standing.num_seeds} seeds"
            case State.RUNNING:
                return "it is still running"

    def stopped(self) -> list[tuple[str, str]]:
        """Return the name of each stopped group and the reason why it stopped, in the order of the looks."""
        order = sorted(
            (each for each in range(len(self.plan.groups)) if self.standings[each].num_seeds is not None),
            key=lambda each: self.standings[each].num_seeds or 0,
        )
        return [(self.name_of(each), self.reason(each)) for each in order]

    def summary(self) -> PlanSummary:
        return PlanSummary(
            num_groups=len(self.plan.groups),
            max_seeds=len(self.plan.seeds),
            looks=self.plan.looks,
            looks_done=tuple(each.num_seeds for each in self.rounds),
            futility=self.plan.futility,
            is_over=self.is_over,
            decisions=tuple(f"{name}: {reason}" for name, reason in self.stopped()),
        )


def planned_study(study: Study, plan: Plan, metric: Metric, failed: Collection[int] | None = None) -> PlannedStudy:
    """Replay the looks of a plan with the finished runs of a study.

    `failed` contains the indices of the groups whose next planned seed has a failed run; None: find these groups from
    the results of the runs. Raise BadRunError if the groups do not have the same documents, or if the metric is not
    defined on their documents.
    """
    groups = tuple(group_with(study.groups, planned.group_hash) for planned in plan.groups)
    found = [group for group in groups if group is not None]
    for group in found[1:]:
        if group.split_hash != found[0].split_hash or not group.has_documents_of(found[0]):
            raise BadRunError(
                f"{found[0].name} and {group.name} have different documents (split_hash). The groups of a planned "
                "study must have the same documents"
            )
    units = iter(units_of(found))
    samples = tuple(None if group is None else planned_sample(group, plan, metric, next(units)) for group in groups)
    for planned_group, sample in zip(plan.groups, samples, strict=True):
        if sample is not None and is_undefined(sample):
            raise BadRunError(
                f"{metric.title} is not defined for {sanitize(planned_group.name)}: a class has no test documents. "
                "Choose another metric=... in a new study=..."
            )
    if failed is None:
        failed = {
            i for i, planned in enumerate(plan.groups) if next_seed_failed(study, planned.group_hash, samples[i], plan)
        }
    return PlannedStudy(plan, groups, samples, tuple(race(samples, plan, metric.higher_is_better, failed)))


def group_with(groups: Sequence[Group], group_hash: str) -> Group | None:
    """Return the group that contains a run with this `group_hash`, or None."""
    return next((group for group in groups if any(run.result["group_hash"] == group_hash for run in group.runs)), None)


def planned_sample(group: Group, plan: Plan, metric: Metric, units: Units) -> Sample | None:
    """Return the metric of a group for the planned seeds before the first unfinished one; None: no such seeds."""
    rows = []
    for seed in plan.seeds:
        if seed not in group.seeds:
            break
        rows.append(group.seeds.index(seed))
    return sample_of(group, metric, units).seeds(np.array(rows)) if rows else None


def next_seed_failed(study: Study, group_hash: str, sample: Sample | None, plan: Plan) -> bool:
    """Return whether the first planned seed without a finished run has a failed run."""
    num_seeds = 0 if sample is None else len(sample)
    return num_seeds < len(plan.seeds) and (group_hash, plan.seeds[num_seeds]) in study.failed


def notes_on_plan(study: Study, planned: PlannedStudy | None) -> Iterator[str]:
    """Yield sentences on how the comparison follows the plan of the study, or why it does not (`planned` is None)."""
    if study.plan is None:
        return
    if planned is None:
        margin = "without a margin" if study.plan.margin is None else f"with the margin {study.plan.margin}"
        yield (
            f"plan.json plans a comparison of {study.plan.metric} {margin}. This comparison has another metric or "
            "margin, so its tests are not corrected for the planned looks: treat its verdicts as exploratory."
        )
        return
    done, most = [each.num_seeds for each in planned.rounds], len(planned.plan.seeds)
    looks = f"{len(done)} of {len(planned.plan.looks)} planned looks were taken" if done else "no look was taken yet"
    yield (
        f"The tests follow plan.json: at most {most} seeds per group, and {looks}. P-values and intervals of "
        "differences hold for all looks together. A study that stops at a large difference tends to overestimate it."
    )
    by_reason: dict[str, list[str]] = {}
    for name, reason in planned.stopped():
        by_reason.setdefault(reason, []).append(name)
    yield from (f"{', '.join(names)}: {reason}." for reason, names in by_reason.items())
    for group in filter(None, planned.groups):
        if more := sorted(set(group.seeds) - set(planned.plan.seeds)):
            yield f"{group.name}: the tests ignore {counted(len(more), 'seed')} not listed in plan.json."
