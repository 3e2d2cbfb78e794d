"""Find what may distort a comparison besides chance: one sentence for each confound, for the reader."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from imdbcls.comparison.naming import choices_of
from imdbcls.comparison.results import PairResult
from imdbcls.comparison.run_files import Run, number, plain
from imdbcls.comparison.study import Group

MAX_VALUES_NAMED = 4  # named in one sentence
MAX_CHOICES_NAMED = 6
PATH_KEYS = ("kernels", "instructions")  # of result.json's environment
NO_PATH = "an unrecorded path"
MIXED = " and "
CONDITIONS = {  # of result.json
    "git_commit": "the code may differ",
    "precision": "a difference may come from the precision",
    "hardware": "do not compare times, latencies and memory; last digits may differ",
}


def confounds(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each difference between runs or groups that is not the one under study."""
    for group in groups:
        if group.watched_test:
            yield (
                f"{group.name} was evaluated on the test split during training, so its test metrics may be "
                "optimistic; its verdicts carry a flag."
            )
        if len(group.runs) == 1:
            yield f"{group.name} has one seed: its interval covers the choice of documents, not the choice of seeds."
        elif len(set(group.order_seeds)) < len(group.order_seeds):
            yield f"{group.name}: runs share a data.order_seed, so its interval does not cover all batch orders."
        constant = sum(len(np.unique(run.predictions.predicted)) == 1 for run in group.runs)
        if constant:
            yield f"{group.name}: {constant} of {len(group.runs)} runs predict one class for all documents."
        for run in group.runs:
            said, found = number(run.result.get("test/accuracy")), run_accuracy(run)
            if said is not None and abs(said - found) > 1e-4:
                yield (
                    f"{run.name}: result.json says accuracy {said:.4f}, its predictions give {found:.4f}; "
                    "the predictions are used."
                )
    if len({group.split_hash for group in groups}) > 1:
        yield "The groups do not all have the same split (split_hash); such pairs are not tested."
    known = [run.predictions.clusters is not None for group in groups for run in group.runs]
    if any(known) and not all(known):
        yield "Not all runs recorded which documents belong together; for these, the clusters of other runs are used."
    yield from differing_choices(groups)
    yield from differing_conditions(groups)
    yield from differing_paths(groups)


def differing_choices(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence if groups with different heads also differ in other choices."""
    if len({group.head for group in groups}) == 1:
        return
    choices = choices_of([group.runs[0] for group in groups])
    keys = {key for choice in choices for key in choice if not key.startswith("head.")}
    found: dict[str, str] = {}  # by the last part of the key: groups copy values of top-level keys
    for key in sorted(keys, key=lambda key: (key.count("."), key)):
        values: dict[str, list[str]] = defaultdict(list)
        for group, choice in zip(groups, choices, strict=True):
            values[plain(str(choice.get(key)), 30)].append(group.name)
        if len(values) > 1:
            values_text = "; ".join(f"{value} in {', '.join(names)}" for value, names in values.items())
            found.setdefault(key.rsplit(".", 1)[-1], f"{key} ({plain(values_text, 200)})")
    if found:
        shown = list(found.values())[:MAX_CHOICES_NAMED]
        more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        yield f"The groups differ in more than the head: {', '.join(shown)}{more}. A difference may come from that."


def differing_conditions(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each condition outside the configuration that differs between runs."""
    runs = [run for group in groups for run in group.runs]
    for key, consequence in CONDITIONS.items():
        counts = Counter(plain(str(run.result[key]), 60) for run in runs if run.result.get(key))
        if len(counts) > 1:
            found = "; ".join(f"{count} of {value}" for value, count in counts.most_common(MAX_VALUES_NAMED))
            more = " and others" if len(counts) > MAX_VALUES_NAMED else ""
            yield f"The runs differ in {key} ({found}{more}): {consequence}."


def differing_paths(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for runs that used different kernels or instructions, which change their last bits."""
    alike: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        paths = Counter(path_of(run) for run in group.runs)
        if len(paths) > 1:
            found = "; ".join(f"{count} with {path}" for path, count in paths.most_common(MAX_VALUES_NAMED))
            yield f"{group.name} mixes numeric paths ({found}), so its spread over seeds includes rounding differences."
        elif MIXED not in next(iter(paths)):  # as an LSTM with kernels above an encoder without them
            run = group.runs[0]
            computed_alike = json.dumps([run.config.get("backbone"), run.result.get("precision")], default=str)
            alike[computed_alike][next(iter(paths))].append(group.name)
    for names_by_path in alike.values():
        if len(names_by_path) > 1:
            found = "; ".join(f"{', '.join(names)} with {path}" for path, names in names_by_path.items())
            yield (
                f"The groups were computed on different numeric paths ({plain(found, 300)}), whose last bits differ; "
                "do not compare times and latencies."
            )


def path_of(run: Run) -> str:
    """Return the kernels and instructions that a run recorded, as a short text; the file may hold anything."""
    recorded = run.result.get("environment")
    if not isinstance(recorded, dict) or "kernels" not in recorded:
        return NO_PATH
    parts = [str(recorded[key]) for key in PATH_KEYS if recorded.get(key) is not None]
    return plain(" on ".join(dict.fromkeys(parts)), 80)


def run_accuracy(run: Run) -> float:
    return float(run.predictions.correct.mean())


def partial_overlaps(pairs: Iterable[PairResult], groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each pair of groups whose test sets overlap in part."""
    sizes = {group.name: len(group.ids) for group in groups}
    for pair in pairs:
        size_a, size_b = sizes[pair.a], sizes[pair.b]
        if not pair.problem and pair.shared_documents < max(size_a, size_b):
            yield (
                f"{pair.a} and {pair.b} are compared on the {pair.shared_documents:,} documents that both answered "
                f"(of {size_a:,} and {size_b:,})."
            )
