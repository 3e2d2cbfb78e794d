"""Read a study: group the runs that differ only in their seeds, and record which runs are left out and why."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.naming import Described, distinct_names, varied_choices
from imdbcls.comparison.run_files import (
    BadRunError,
    Run,
    StoppedRunError,
    UnfinishedRunError,
    group_and_seed,
    is_run_folder,
    read_run,
    sanitize,
)
from imdbcls.runs.format_version import OtherVersionError
from imdbcls.runs.plan import Plan, has_plan, read_plan
from imdbcls.runs.record import problem_of_labels
from imdbcls.runs.selection import DEFAULT, metric_of
from imdbcls.runtime.text_table import joined

MAX_STUDIES_NAMED = 10  # in one message
MAX_RUNS_NAMED = 5  # in one message


@dataclass(frozen=True)
class Study:
    """The groups of a study, and notes, such as sentences about the runs that are left out."""

    name: str
    groups: tuple[Group, ...]
    label_names: tuple[str, ...]
    left_out: tuple[str, ...]
    file: str | None = None  # name of the predictions file that the study was read from; None: run folders
    plan: Plan | None = None  # for a study that is tested while it grows; None: no plan.json
    failed: frozenset[tuple[str, int]] = frozenset()  # (group_hash, seed) of failed runs
    folder: Path | None = None  # contains the run folders; None: the study is a predictions file
    num_unfinished: int = 0  # run folders whose run is training or was interrupted

    @property
    def recorded_metric(self) -> str:
        """The metric that selected the best epoch of every run; accuracy if it is unknown or differs between runs."""
        found = {metric_of(run.result) for group in self.groups for run in group.runs}
        return found.pop() if len(found) == 1 else DEFAULT


def read_study(folder: Path) -> Study:
    """Read every run folder in the study folder, and its plan if it has one.

    Raise BadRunError if no run can be compared, and UserError if the plan is damaged.
    """
    if not folder.is_dir():
        raise BadRunError(
            f"{folder} is neither a folder nor a file. Pass a study folder, such as runs/heads, or a file of "
            "predictions (.csv, .tsv or .parquet)"
        )
    notes: list[str] = []
    runs: list[Run] = []
    of_other_versions: dict[str, list[str]] = defaultdict(list)  # run names, by the message about their version
    failed: list[tuple[str, int]] = []  # (group_hash, seed)
    stopped: dict[str, tuple[str, int] | None] = {}  # (group_hash, seed) by run name; None: a value is missing
    num_unfinished = 0
    for run_folder in sorted(path for path in folder.iterdir() if is_run_folder(path)):
        try:
            runs.append(read_run(run_folder, folder))
        except OtherVersionError as problem:
            of_other_versions[str(problem)].append(sanitize(run_folder.name))
        except StoppedRunError:
            stopped[sanitize(run_folder.name)] = group_and_seed(run_folder, folder, "stopped")
        except UnfinishedRunError as problem:
            num_unfinished += 1
            notes.append(f"{sanitize(run_folder.name)} is left out: {problem}.")
        except BadRunError as problem:
            notes.append(f"{sanitize(run_folder.name)} is left out: {problem}.")
            if failed_run := group_and_seed(run_folder, folder, "failed"):
                failed.append(failed_run)
    notes += [note_on_version(problem, names) for problem, names in of_other_versions.items()]
    label_names, runs = with_the_same_labels(runs, notes)
    of_stopped = [found for found in stopped.values() if found is not None]
    groups = [
        replace(group, num_failed=num_runs_of(group, failed), num_stopped=num_runs_of(group, of_stopped))
        for group in gather(runs, notes)
        if group.runs
    ]
    plan = read_plan(folder) if groups and has_plan(folder) else None
    hashes = [str(group.runs[0].result["group_hash"]) for group in groups]
    names = named_as_planned([group.name for group in groups], hashes, plan)
    groups = [replace(group, name=name) for group, name in zip(groups, names, strict=True)]
    if stopped:
        notes.append(note_on_stopped(list(stopped), groups))
    if not groups:
        raise BadRunError(f"{folder} contains no finished run to compare. {' '.join(notes) or where_to_look(folder)}")
    return Study(
        sanitize(folder.resolve().name),
        tuple(groups),
        label_names,
        tuple(notes),
        plan=plan,
        failed=frozenset(failed),
        folder=folder,
        num_unfinished=num_unfinished,
    )


def named_as_planned(names: Sequence[str], group_hashes: Sequence[str], plan: Plan | None) -> list[str]:
    """Return the name that the plan gives each group. A group that is not in the plan keeps its name in `names`.

    Without a plan, or if a name would occur twice, return `names`. A plan names its groups by the swept choices. Tuned
    values, such as the learning rate of each head, are not in these names.
    """
    planned = {} if plan is None else {group.group_hash: sanitize(group.name) for group in plan.groups}
    found = [planned.get(group_hash, name) for name, group_hash in zip(names, group_hashes, strict=True)]
    return found if len(set(found)) == len(found) else list(names)


def num_runs_of(group: Group, found: list[tuple[str, int]]) -> int:
    """Return how many of the runs, given as (group_hash, seed), belong to a group."""
    hashes = {run.result["group_hash"] for run in group.runs}
    return sum(group_hash in hashes for group_hash, _ in found)


def note_on_stopped(names: list[str], groups: Sequence[Group]) -> str:
    """Return a note on the runs that W&B stopped early, and on the groups whose mean may be too good as a result."""
    listed, verb = listed_names(names), "is" if len(names) == 1 else "are"
    note = f"{listed} {verb} left out: W&B stopped {'it' if len(names) == 1 else 'them'} early."
    if partly := [group.name for group in groups if group.num_stopped]:
        note += (
            f" If W&B stopped the worse runs of {joined(partly)}, the remaining runs look better than all runs would. "
            "For a fair comparison, train again with new seeds and without early stopping."
        )
    return note


def listed_names(names: list[str]) -> str:
    listed = ", ".join(names[:MAX_RUNS_NAMED])
    return f"{listed} and {len(names) - MAX_RUNS_NAMED:,} more" if len(names) > MAX_RUNS_NAMED else listed


def note_on_version(problem: str, names: list[str]) -> str:
    """Return a note on the runs that are left out because of their format version.

    `problem` continues a sentence that begins with "its result.json".
    """
    listed = listed_names(names)
    verb, whose, them = ("is", "its", "it") if len(names) == 1 else ("are", "their", "them")
    return (
        f"{listed} {verb} left out: {whose} result.json {problem}. To compare {them}, use the version of imdbcls "
        f"that trained {them}, or train {them} again."
    )


def where_to_look(folder: Path) -> str:
    """Return a hint for a folder that contains no runs: which study folder to pass instead, if there is one."""
    if is_run_folder(folder):
        return f"It is a run folder. Pass its study folder, {sanitize(str(folder.resolve().parent), 200)}."
    studies = sorted({sanitize(path.parent.parent.name) for path in folder.glob("*/*/result.json")})
    if studies:
        return f"Pass one of the study folders in it: {', '.join(studies[:MAX_STUDIES_NAMED])}."
    return "It contains no run folder, that is, no folder with result.json, config.yaml and predictions/test.parquet."


def with_the_same_labels(runs: list[Run], notes: list[str]) -> tuple[tuple[str, ...], list[Run]]:
    """Return the most common label names and the runs that have them. Add a note for each run with other labels."""
    if not runs:
        return (), []
    common = Counter(label_names(run) for run in runs).most_common(1)[0][0]
    for run in runs:
        if label_names(run) != common:
            found, expected = ", ".join(label_names(run)), ", ".join(common)
            notes.append(
                f"{run.name} is left out: its labels ({sanitize(found)}) differ from the most common labels in this "
                f"study ({sanitize(expected)})."
            )
    return common, [run for run in runs if label_names(run) == common]


def label_names(run: Run) -> tuple[str, ...]:
    """Return the label names from result.json or, if those are missing or invalid, from the predictions."""
    names, of_predictions = run.result.get("label_names"), run.predictions.label_names
    is_usable = isinstance(names, list) and len(names) == len(of_predictions) and problem_of_labels(names) is None
    return tuple(sanitize(str(name), 60) for name in (names if names and is_usable else of_predictions))


def gather(runs: list[Run], notes: list[str]) -> list[Group]:
    """Build one group from the runs of each key (see `group_keys`). Leave out inconsistent runs, with a note."""
    by_key: dict[str, list[Run]] = defaultdict(list)
    for run, key in zip(runs, group_keys(runs), strict=True):
        by_key[key].append(run)
    members = [consistent(sorted(group, key=lambda run: (run.seed, run.name)), notes) for group in by_key.values()]
    first = [group[0] for group in members]
    varied = varied_choices(first)
    return [
        Group(
            name,
            sanitize(group[0].result["head"], 60),
            sanitize(str(group[0].result.get("backbone", "")), 120),
            tuple(group),
            varied=choices,
        )
        for name, choices, group in zip(distinct_names(first, varied), varied, members, strict=True)
    ]


def group_keys(runs: Sequence[Described]) -> list[str]:
    """Return a key for each run. All runs of a group have the same key.

    The runs of a group have the same `group_hash`, or the same `choices_hash` and `split_hash`. The second condition
    joins runs that read the same documents from different sources, such as a file and the Hub.
    """
    first_hash: dict[tuple[str, str], str] = {}  # by (choices_hash, split_hash): group_hash of the first run
    keys = []
    for run in runs:
        group_hash, choices, split = (run.result.get(key) for key in ("group_hash", "choices_hash", "split_hash"))
        if isinstance(choices, str) and isinstance(split, str):
            group_hash = first_hash.setdefault((choices, split), str(group_hash))
        keys.append(str(group_hash))
    return keys


def group_names(runs: Sequence[Described], plan: Plan | None) -> tuple[list[str], list[dict[str, str]]]:
    """Return, for each run, the name of its group and the choices that distinguish this group from other groups."""
    keys = group_keys(runs)
    first: dict[str, Described] = {}
    for run, key in zip(runs, keys, strict=True):
        first.setdefault(key, run)
    of_groups = list(first.values())
    varied = varied_choices(of_groups)
    hashes = [str(run.result["group_hash"]) for run in of_groups]
    names = named_as_planned(distinct_names(of_groups, varied), hashes, plan)
    found = dict(zip(first, zip(names, varied, strict=True), strict=True))
    return [found[key][0] for key in keys], [found[key][1] for key in keys]


def consistent(runs: list[Run], notes: list[str]) -> list[Run]:
    """Return the runs of a group that have its most common split, equal test documents and labels, and distinct seeds.

    Add a note for each run that is left out.
    """
    split = Counter(str(run.result.get("split_hash")) for run in runs).most_common(1)[0][0]
    runs = runs_where(
        lambda run: str(run.result.get("split_hash")) == split,
        runs,
        notes,
        "its split differs from the most common split in its group",
    )
    reference = Counter(tuple(run.predictions.ids) for run in runs).most_common(1)[0][0]
    runs = runs_where(
        lambda run: tuple(run.predictions.ids) == reference,
        runs,
        notes,
        "its test documents differ from the most common test documents in its group",
    )
    labels = runs[0].predictions.true_labels
    runs = runs_where(
        lambda run: np.array_equal(run.predictions.true_labels, labels),
        runs,
        notes,
        "its test labels differ from the test labels of another run in its group",
    )
    seen: set[Any] = set()
    kept = []
    for run in runs:
        identity = run.result.get("config_hash") or run.name
        if identity in seen:
            notes.append(f"{run.name} is left out: it is a copy of another run (same config_hash).")
        else:
            kept.append(run)
        seen.add(identity)
    return one_per_seed(kept, notes)


def one_per_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    """Return one run per seed, because runs with the same seed are not independent samples."""
    kept: list[Run] = []
    for run in runs:
        shared = next((other for other in kept if other.seed == run.seed), None)
        if shared is not None:
            notes.append(
                f"{run.name} is left out: it has the same seed ({run.seed}) as {shared.name}, so the two runs are not "
                "independent. Use a different seed for each run."
            )
        else:
            kept.append(run)
    return kept


def runs_where(condition: Callable[[Run], bool], runs: list[Run], notes: list[str], reason: str) -> list[Run]:
    """Return the runs that meet the condition. Add a note with the reason for each run that does not."""
    notes.extend(f"{run.name} is left out: {reason}." for run in runs if not condition(run))
    return [run for run in runs if condition(run)]
