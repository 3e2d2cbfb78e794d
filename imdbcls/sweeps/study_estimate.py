"""Estimate what a planned study costs before anything trains: `python -m imdbcls.study ... --dry-run`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from imdbcls.config.grid import GridGroup
from imdbcls.config.study_settings import StudySettings
from imdbcls.printable import duration
from imdbcls.runs.plan import Plan
from imdbcls.runs.selection import LOWER_IS_BETTER
from imdbcls.runtime import console
from imdbcls.runtime.text_table import wrapped
from imdbcls.sweeps.cost import Estimate, parallel_seconds
from imdbcls.sweeps.cost_table import WIDTH, report
from imdbcls.sweeps.estimate import estimate
from imdbcls.sweeps.expected_runs import DISAGREEMENT, SEED_SD, detectable_difference, expected_runs
from imdbcls.sweeps.in_child import in_child
from imdbcls.sweeps.planning import known_plan, make_plan


def estimate_study(groups: Sequence[GridGroup], settings: StudySettings) -> int:
    """Print the minimum and the maximum cost of a study. Return 0, or 1 if a group cannot be measured.

    Raise UserError if the study folder has another plan.
    """
    plan = make_plan(groups, settings)
    known_plan(groups[0].config.folder.parent, plan)
    found = estimate({group.name: [group.config_of(seed) for seed in settings.seeds.planned] for group in groups})
    width = console.columns_of(sys.stdout)
    # After the first look, a round trains at most one run of each group.
    in_rounds = replace(found, groups=tuple(replace(each, jobs=min(each.jobs, len(groups))) for each in found.groups))
    sentences = [bounds(found, in_rounds.seconds, settings), *expectation(found, plan)]
    console.write_out(wrapped(" ".join(sentences), width or WIDTH))
    console.write_out(f"\n{report(in_rounds, groups[0].config, width)}")
    return int(any(group.problem for group in found.groups))


def bounds(found: Estimate, most_seconds: float, settings: StudySettings) -> str:
    """Return sentences on the cost of a study that ends at its first look (minimum) or at its last look (maximum).

    `most_seconds` is the wall time of all runs.
    """
    first, most = settings.seeds.first, settings.seeds.max
    jobs = max((group.jobs for group in found.groups), default=1)
    remaining = parallel_seconds(
        ((max(0, first - group.num_done), group.seconds) for group in found.groups if group.cost is not None), jobs
    )
    return (
        f"{len(found.groups)} groups, tested after {first} to {most} seeds. At least {first * len(found.groups)} runs: "
        f"about {duration(found.once_seconds + remaining)}. At most {found.num_runs} runs: about "
        f"{duration(most_seconds)}. Groups that are decided early save runs."
    )


def expectation(found: Estimate, plan: Plan) -> Iterator[str]:
    """Yield sentences on the expected number of runs and the detectable difference.

    Yield nothing if the metric is not in percent, or if the number of test documents is not known.
    """
    num_documents = next((each.cost.num_documents["test"] for each in found.groups if each.cost is not None), None)
    if num_documents is None or plan.metric in LOWER_IS_BETTER:
        return
    equal, half, one = (in_child(partial(expected_runs, plan, num_documents, step)) for step in (0.0, 0.005, 0.01))
    yield (
        f"Expected in simulated studies with {num_documents:,} test documents and a standard deviation of "
        f"{100 * SEED_SD:g} points over seeds: {equal:.0f} runs if all groups are equal; {half:.0f} "
        f"if each group is 0.5 points worse than the previous group; {one:.0f} if each group is 1 point worse."
    )
    detectable = in_child(partial(detectable_difference, plan, num_documents))
    yield (
        f"With {len(plan.seeds)} seeds per group, 80 % of these studies detect a true difference of "
        f"{100 * detectable:.2g} points between two groups. With more test documents or seeds, they detect smaller "
        "differences. The simulation assumes that documents are independent. It also assumes that, on "
        f"{100 * DISAGREEMENT:.0f} % of the documents, only one of two runs from different groups is right."
    )
