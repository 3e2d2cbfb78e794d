"""Read a study: group runs that differ only in their seeds, and record which runs are left out and why."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imdbcls.comparison.naming import distinct_names
from imdbcls.comparison.run_files import BadRunError, Run, failed_group, is_run_folder, number, read_run, sanitize
from imdbcls.comparison.statistics import num_independent
from imdbcls.runs.format_version import OtherVersionError
from imdbcls.runs.record import problem_of_labels

MAX_STUDIES_NAMED = 10  # in one message
MAX_RUNS_NAMED = 5


@dataclass(frozen=True)
class Group:
    """Runs of one config with S seeds, on the same N test documents."""

    name: str
    head: str
    backbone: str
    runs: tuple[Run, ...]
    num_failed: int = 0  # runs of the same config that failed

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def order_seeds(self) -> list[str]:
        """Batch-order seeds of the runs that recorded them."""
        data = [run.config.get("data") for run in self.runs]
        return [str(section["order_seed"]) for section in data if isinstance(section, dict) and "order_seed" in section]

    @property
    def split_hash(self) -> str | None:
        return self.runs[0].result.get("split_hash")

    @property
    def watched_test(self) -> bool:
        return any(run.result.get("watched_test") is True for run in self.runs)

    @property
    def ids(self) -> np.ndarray:
        return self.runs[0].predictions.ids

    @property
    def labels_N(self) -> np.ndarray:
        return self.runs[0].predictions.true_labels

    @property
    def tokens_N(self) -> np.ndarray:
        return self.runs[0].predictions.tokens

    @cached_property
    def clusters_N(self) -> np.ndarray | None:
        """Cluster index of each document, with clusters sorted by name; None if no run recorded clusters.

        Uses the first run that recorded clusters, because all runs have the same documents.
        """
        recorded = (run.predictions.clusters for run in self.runs)
        clusters = next((column for column in recorded if column is not None), None)
        return None if clusters is None else np.unique(clusters, return_inverse=True)[1]

    @property
    def num_independent(self) -> int:
        """Number of clusters of test documents, or of documents if clusters are not known."""
        return num_independent(len(self.ids), self.clusters_N)

    @property
    def flags(self) -> list[str]:
        """Caveats that every verdict on this group must include."""
        failed = f"{self.num_failed} of {self.num_failed + len(self.runs)} runs of {self.name} failed"
        watched = f"{self.name} was evaluated on the test split during training"
        return [*([failed] if self.num_failed else []), *([watched] if self.watched_test else [])]

    @property
    def max_length(self) -> int | None:
        length = number(self.runs[0].result.get("max_length", self.runs[0].config.get("max_length")))
        return None if length is None else int(length)

    @property
    def in_windows(self) -> bool:
        """Whether documents longer than `max_length` are split into windows instead of being truncated."""
        data = self.runs[0].config.get("data")
        return isinstance(data, dict) and data.get("truncation") == "windows"

    @cached_property
    def correct_SN(self) -> np.ndarray:
        """1.0 where the prediction of a seed is the label, else 0.0 (float32)."""
        return np.stack([run.predictions.correct for run in self.runs]).astype(np.float32)

    @cached_property
    def share_correct_N(self) -> np.ndarray:
        """Share of the seeds that are right; exactly 1 or 0 if all seeds are right or wrong."""
        return self.correct_SN.mean(axis=0)

    @property
    def probabilities_SNC(self) -> np.ndarray:
        return np.stack([run.predictions.probabilities for run in self.runs])

    @property
    def mean_probabilities_NC(self) -> np.ndarray:
        return self.probabilities_SNC.mean(axis=0)

    @cached_property
    def label_probability_N(self) -> np.ndarray:
        """Probability of the label, averaged over seeds."""
        return np.take_along_axis(self.mean_probabilities_NC, self.labels_N[:, None], axis=1)[:, 0]

    def has_documents_of(self, other: "Group") -> bool:
        return np.array_equal(self.ids, other.ids)


@dataclass(frozen=True)
class Study:
    """The groups of a study, and a sentence for each run that is left out."""

    name: str
    groups: tuple[Group, ...]
    label_names: tuple[str, ...]
    left_out: tuple[str, ...]


def read_study(folder: Path) -> Study:
    """Read every run folder in the study. Raise BadRunError if no run can be compared."""
    if not folder.is_dir():
        raise BadRunError(f"{folder} is not a folder; give a study folder, such as runs/heads")
    notes: list[str] = []
    runs: list[Run] = []
    of_other_versions: dict[str, list[str]] = defaultdict(list)  # names of runs by the problem with their version
    failed: Counter[str] = Counter()
    for run_folder in sorted(path for path in folder.iterdir() if is_run_folder(path)):
        try:
            runs.append(read_run(run_folder, folder))
        except OtherVersionError as problem:
            of_other_versions[str(problem)].append(sanitize(run_folder.name))
        except BadRunError as problem:
            notes.append(f"{sanitize(run_folder.name)} is left out: {problem}.")
            if group_hash := failed_group(run_folder, folder):
                failed[group_hash] += 1
    notes += [note_on_version(problem, names) for problem, names in of_other_versions.items()]
    label_names, runs = with_the_same_labels(runs, notes)
    groups = [
        replace(group, num_failed=sum(failed[hash] for hash in {run.result["group_hash"] for run in group.runs}))
        for group in gather(runs, notes)
        if group.runs
    ]
    if not groups:
        raise BadRunError(f"{folder} contains no finished run to compare. {' '.join(notes) or where_to_look(folder)}")
    return Study(sanitize(folder.resolve().name), tuple(groups), label_names, tuple(notes))


def note_on_version(problem: str, names: list[str]) -> str:
    """Return a sentence about the runs that are left out because of the same problem with their format version."""
    shown = ", ".join(names[:MAX_RUNS_NAMED])
    if len(names) > MAX_RUNS_NAMED:
        shown += f" and {len(names) - MAX_RUNS_NAMED:,} more"
    verb, whose, them = ("is", "its", "it") if len(names) == 1 else ("are", "their", "them")
    return (
        f"{shown} {verb} left out: {whose} result.json {problem}. Compare {them} with the imdbcls that wrote {them}, "
        f"or train {them} again."
    )


def where_to_look(folder: Path) -> str:
    """Return advice for a folder without runs: compare the study of the run, or a study in the folder."""
    if is_run_folder(folder):
        return f"It is a run folder; give its study folder, {sanitize(str(folder.resolve().parent), 200)}."
    studies = sorted({sanitize(path.parent.parent.name) for path in folder.glob("*/*/result.json")})
    if studies:
        return f"Give one of its studies: {', '.join(studies[:MAX_STUDIES_NAMED])}."
    return "It contains no run folder (result.json, config.yaml, predictions/test.parquet)."


def with_the_same_labels(runs: list[Run], notes: list[str]) -> tuple[tuple[str, ...], list[Run]]:
    """Keep the runs with the most common label names; runs with other labels cannot be compared with them."""
    if not runs:
        return (), []
    common = Counter(label_names(run) for run in runs).most_common(1)[0][0]
    for run in runs:
        if label_names(run) != common:
            own, others = ", ".join(label_names(run)), ", ".join(common)
            notes.append(
                f"{run.name} is left out: its labels ({sanitize(own)}) differ from those of the other runs "
                f"({sanitize(others)})."
            )
    return common, [run for run in runs if label_names(run) == common]


def label_names(run: Run) -> tuple[str, ...]:
    """Return the label names from result.json or, if they are not valid, from the predictions."""
    names, of_predictions = run.result.get("label_names"), run.predictions.label_names
    is_usable = isinstance(names, list) and len(names) == len(of_predictions) and problem_of_labels(names) is None
    return tuple(sanitize(str(name), 60) for name in (names if names and is_usable else of_predictions))


def gather(runs: list[Run], notes: list[str]) -> list[Group]:
    """Build one group per `group_hash`, with a name that distinguishes it from the others.

    Runs with the same choices and the same documents form one group, even if they read the documents from different
    paths.
    """
    by_hash: dict[str, list[Run]] = defaultdict(list)
    same: dict[tuple[str, str], str] = {}  # the first group_hash of these choices on these documents
    for run in runs:
        group_hash, choices, split = (run.result.get(key) for key in ("group_hash", "choices_hash", "split_hash"))
        if isinstance(choices, str) and isinstance(split, str):
            group_hash = same.setdefault((choices, split), str(group_hash))
        by_hash[str(group_hash)].append(run)
    members = [consistent(sorted(group, key=lambda run: (run.seed, run.name)), notes) for group in by_hash.values()]
    names = distinct_names([group[0] for group in members])
    return [
        Group(
            name,
            sanitize(group[0].result["head"], 60),
            sanitize(str(group[0].result.get("backbone", "")), 120),
            tuple(group),
        )
        for name, group in zip(names, members, strict=True)
    ]


def consistent(runs: list[Run], notes: list[str]) -> list[Run]:
    """Keep the runs of a group that share its most common split and test documents and have the same labels.

    Copies of a run and repeated seeds are dropped.
    """
    split = Counter(str(run.result.get("split_hash")) for run in runs).most_common(1)[0][0]
    runs = dropping(
        runs, lambda run: str(run.result.get("split_hash")) == split, notes, "its split differs from that of its group"
    )
    reference = Counter(tuple(run.predictions.ids) for run in runs).most_common(1)[0][0]
    runs = dropping(
        runs,
        lambda run: tuple(run.predictions.ids) == reference,
        notes,
        "its test documents differ from those of its group",
    )
    labels = runs[0].predictions.true_labels
    runs = dropping(
        runs,
        lambda run: np.array_equal(run.predictions.true_labels, labels),
        notes,
        "its test labels differ from those of its group",
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
    """Keep one run per seed, because runs with the same seed are not independent samples."""
    kept: list[Run] = []
    for run in runs:
        shared = next((other for other in kept if other.seed == run.seed), None)
        if shared is not None:
            notes.append(
                f"{run.name} is left out: it has the same seed ({run.seed}) as {shared.name}, so the two are not "
                "independent. Vary seed; data.order_seed follows it."
            )
        else:
            kept.append(run)
    return kept


def dropping(runs: list[Run], keep: Any, notes: list[str], reason: str) -> list[Run]:
    notes.extend(f"{run.name} is left out: {reason}." for run in runs if not keep(run))
    return [run for run in runs if keep(run)]
