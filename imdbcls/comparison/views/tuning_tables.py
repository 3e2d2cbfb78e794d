"""The tables and sentences on a tuning study, for the terminal and the page."""

from collections.abc import Callable, Sequence
from typing import Any

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.tuning_results import SEARCH_ELSEWHERE, GroupResult, Lead, TrialResult, TuningResults
from imdbcls.comparison.views.quantities import NONE, title_of, value_text
from imdbcls.comparison.views.tables import Table
from imdbcls.printable import counted, duration

SECONDS_PER_HOUR = 3600.0
NUM_TRIALS_SHOWN = (1, 2, 5, 10, 20, 50, 100)  # columns of the table of expectations


def budgets(results: TuningResults) -> Table:
    """Return the trials, the time and the best trial of each group."""
    header = ["group", "trials", "finished", "pruned", "failed", "time", f"best {title_of(results.metric)}", "values"]
    rows = [
        [
            group.name,
            str(len(group.trials)),
            *(str(group.count(state)) for state in ("done", "pruned", "failed")),
            duration(group.seconds),
            value_text(results.metric, None if group.best is None else group.best.value),
            NONE if group.best is None else values_text(group.best),
        ]
        for group in results.groups
    ]
    note = (
        f"The best validation {results.metric.title} of the finished trials is too optimistic, because the best trial "
        "was selected on the same documents."
    )
    return Table("budgets", "What budget did each group use, and what did it find?", header, rows, note)


def expectations(results: TuningResults) -> Table:
    """Return the expected value of the best of n trials for some n, and its standard deviation."""
    most = max((len(group.expected) for group in results.groups), default=0)
    shown = sorted({n for n in NUM_TRIALS_SHOWN if n < most} | ({most} if most else set()))
    header = ["group", *(f"n={n}" for n in shown)]
    rows = [[group.name, *(expected_text(results.metric, group, n) for n in shown)] for group in results.groups]
    note = f"Expected validation {title_of(results.metric)} of the best of n trials ± its standard deviation."
    return Table("expected", "Which group is ahead after n trials?", header, rows, note)


def all_trials(results: TuningResults) -> Table:
    """Return every trial of every group."""
    keys = list(results.settings["space"])
    header = ["group", "trial", "state", "epochs", "time", title_of(results.metric), *keys]
    rows = [
        [
            group.name,
            str(trial.number),
            trial.state,
            str(trial.epochs),
            duration(trial.seconds),
            value_text(results.metric, trial.value),
            *(short(trial.values.get(key)) for key in keys),
        ]
        for group in results.groups
        for trial in group.trials
    ]
    return Table("trials", "All trials", header, rows)


def expected_text(metric: Metric, group: GroupResult, n: int) -> str:
    if n > len(group.expected):
        return NONE
    found = group.expected[n - 1]
    return f"{value_text(metric, found.value)} ± {value_text(metric, found.std)}"


def values_text(trial: TrialResult) -> str:
    return " ".join(f"{key}={short(value)}" for key, value in trial.values.items())


def short(value: Any) -> str:
    """Return a value of the search space with four significant digits."""
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headline(results: TuningResults) -> str:
    """Return a sentence on the leaders by number of trials or, for a study of one group, on its best trial."""
    if len(results.groups) == 1:
        best = results.groups[0].best
        found = "no trial has finished" if best is None else f"the best trial is {values_text(best)}"
        return f"{results.groups[0].name}: {found}."
    leads = results.leads_by_trials
    if not leads:
        return "At least one group has no result yet."
    return f"On validation, by number of trials: {leads_text(leads, lambda trials: counted(int(trials), 'trial'))}."


def hours_sentence(results: TuningResults) -> str:
    """Return a sentence on the leaders by hours.

    Return an empty string if there is only one group, or if the groups share no range of hours.
    """
    leads = results.leads_by_hours if len(results.groups) > 1 else ()
    return (
        f"On validation, by time: {leads_text(leads, lambda hours: duration(SECONDS_PER_HOUR * hours))}."
        if leads
        else ""
    )


def cautions(results: TuningResults) -> list[str]:
    """Return caveats to the headline: on the lead, on the most common class, and on trials that predict one class."""
    found = []
    if len(results.groups) > 1:
        found.append(
            "A lead on validation does not show that a group is better. Only new runs of each group's best trial, with "
            "new seeds, are evaluated on test."
        )
    if (guess := results.most_common_class) is not None:
        found.append(f"Always predicting {guess.name!r} gives {guess.share:.2%} validation accuracy.")
    collapsed = [group for group in results.groups if group.single_class]
    found.extend(single_class_sentence(group) for group in collapsed)
    return [*found, *([SEARCH_ELSEWHERE] if collapsed else [])]


def single_class_sentence(group: GroupResult) -> str:
    """Return a sentence on the trials of a group that predict one class for all validation documents."""
    number, total = len(group.single_class), counted(len(group.trials), "trial")
    best = ", including the best trial" if group.best in group.single_class else ""
    verb = "predicts" if number == 1 else "predict"
    return f"{group.name}: {number} of {total} {verb} one class for all validation documents{best}."


def leads_text(leads: Sequence[Lead], text_of: Callable[[float], str]) -> str:
    """Return the leaders with their ranges, such as "lstm leads for 1 to 3 trials, cls for 4 to 20 trials".

    A tie for the lead is written as "no group". `text_of` returns a budget as text: a number with its unit.
    """
    parts: list[str] = []
    for lead in leads:
        start, end = text_of(lead.start), text_of(lead.end)
        (low, low_unit), (_, unit) = start.split(" "), end.split(" ")
        span = end if start == end else f"{low if low_unit.rstrip('s') == unit.rstrip('s') else start} to {end}"
        parts.append(f"{'no group' if lead.group is None else lead.group}{' leads' if not parts else ''} for {span}")
    return ", ".join(parts)


def notes(results: TuningResults) -> list[str]:
    """Return sentences that explain how to read the numbers."""
    found = []
    counts = {len(group.trials) for group in results.groups}
    budget = results.settings["budget"]
    if budget["hours"] is None and len(counts) > 1:
        found.append("The budgets are not equal yet: some groups have fewer trials. Run the same command again.")
    if any(group.count("open") for group in results.groups):
        found.append("Some trials are not finished. They are left out of the expectations.")
    if any(group.count("pruned") for group in results.groups):
        found.append("A pruned trial counts with the best value that it reached.")
    if any(group.count("failed") for group in results.groups):
        found.append("A failed trial counts as the worst trial of all groups.")
    if results.settings["sampler"] == "tpe":
        found.append(
            "The expectation assumes independent trials. With sampler=tpe, later trials tend to be better than earlier "
            "trials, so the curve describes a random order of the trials. With sampler=random, the trials are "
            "independent."
        )
    return found
