"""Find possible confounds of a comparison, and describe each in a sentence."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.results import PairResult
from imdbcls.comparison.run_files import Run, number, sanitize
from imdbcls.printable import counted
from imdbcls.runs.encoder_source import CAVEATS
from imdbcls.runs.selection import DEFAULT, TITLES
from imdbcls.runtime.text_table import joined

MAX_VALUES_NAMED = 4  # in one sentence
MAX_CHOICES_NAMED = 6
MAX_GROUPS_NAMED = 10
KERNEL_KEYS = ("kernels", "instructions")  # in the environment of result.json
UNRECORDED = "unrecorded kernels"
MIXED = " and "  # joins several kernels in result.json
CONDITIONS = {  # keys of result.json, and the consequence if runs differ in them
    "git_commit": "the code may differ",
    "precision": "accuracy differences may come from the precision",
    "hardware": "do not compare times, latencies and memory; the last digits of metrics may differ",
}
WITHOUT_METRIC = (
    "Without --metric, the metric of the study's plan decides the comparison, or accuracy if there is no plan."
)


def confounds(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each property of the runs that can bias the comparison or limit its conclusions."""
    yield from differing_metrics(groups)
    if single := [group.name for group in groups if len(group.runs) == 1]:
        has, covers = ("has", "its interval covers") if len(single) == 1 else ("have", "their intervals cover")
        yield f"{joined_groups(single)} {has} one seed, so {covers} the variation over documents but not over seeds."
    for group in groups:
        if group.watched_test:
            yield (
                f"{group.name} was evaluated on the test split during training, so its test metrics may be "
                "optimistic. All verdicts on it include this caveat."
            )
        if (same := group.same_splits) is not True:
            consequence = "" if same is None else " All verdicts on it include this caveat."
            yield f"{group.name}: the encoder {CAVEATS[same]}.{consequence}"
        if len(group.runs) > 1 and len(set(group.order_seeds)) < len(group.order_seeds):
            yield (
                f"{group.name}: some runs have the same data.order_seed, so the interval does not fully cover the "
                "variation over batch orders."
            )
        constant = sum(len(np.unique(run.predictions.predicted)) == 1 for run in group.runs)
        if constant:
            yield f"{group.name}: in {constant} of {len(group.runs)} runs, all documents get the same predicted class."
        for run in group.runs:
            recorded, computed = number(run.result.get("test/accuracy")), run_accuracy(run)
            if recorded is not None and abs(recorded - computed) > 1e-4:
                yield (
                    f"{run.name}: the accuracy in result.json is {recorded:.4f}, but the predictions give "
                    f"{computed:.4f}. The comparison uses the predictions."
                )
    if len({group.split_hash for group in groups}) > 1:
        yield "Not all groups have the same split (split_hash). Pairs with different splits are not tested."
    known = [run.predictions.clusters is not None for group in groups for run in group.runs]
    if any(known) and not all(known):
        yield (
            "Some runs did not record which documents belong together (clusters). Where possible, the clusters that "
            "another run recorded are used."
        )
    yield from differing_choices(groups)
    yield from differing_conditions(groups)
    yield from differing_kernels(groups)


def differing_metrics(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence if different metrics, or an unknown metric, selected the best epochs of the runs."""
    runs = [run for group in groups for run in group.runs]
    counts = Counter(sanitize(str(run.result.get("metric", DEFAULT)), 30) for run in runs)
    if len(counts) > 1:
        found = "; ".join(f"{name} in {counted(count, 'run')}" for name, count in counts.most_common(MAX_CHOICES_NAMED))
        more = "; and others" if len(counts) > MAX_CHOICES_NAMED else ""
        yield f"Different metrics selected the best epochs of the runs ({found}{more}). {WITHOUT_METRIC}"
    elif unknown := counts.keys() - TITLES.keys():
        yield (
            f"This version of imdbcls does not know the metric that selected the best epochs ({unknown.pop()}). "
            f"{WITHOUT_METRIC}"
        )


def differing_choices(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence if groups with different heads also differ in other choices."""
    if len({group.head for group in groups}) == 1:
        return
    varied = [group.varied for group in groups]
    found = []
    for key in dict.fromkeys(key for choices in varied for key in choices):
        values = list(dict.fromkeys(choices.get(key, "not set") for choices in varied))
        more = f" and {len(values) - MAX_VALUES_NAMED} more" if len(values) > MAX_VALUES_NAMED else ""
        found.append(f"{key} ({', '.join(values[:MAX_VALUES_NAMED])}{more})")
    if found:
        more = f" and {len(found) - MAX_CHOICES_NAMED} more keys" if len(found) > MAX_CHOICES_NAMED else ""
        yield (
            f"The groups differ in more than the head: {', '.join(found[:MAX_CHOICES_NAMED])}{more}. These choices may "
            "also cause differences."
        )


def differing_conditions(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each of the `CONDITIONS` in which the runs differ. Unrecorded values are ignored."""
    runs = [run for group in groups for run in group.runs]
    for key, consequence in CONDITIONS.items():
        counts = Counter(sanitize(str(run.result[key]), 60) for run in runs if run.result.get(key))
        if len(counts) > 1:
            found = "; ".join(f"{value} in {counted(n, 'run')}" for value, n in counts.most_common(MAX_VALUES_NAMED))
            more = "; and others" if len(counts) > MAX_VALUES_NAMED else ""
            yield f"The runs differ in {key} ({found}{more}): {consequence}."


def joined_groups(names: Sequence[str]) -> str:
    """Join names with commas and "and". Replace the names beyond `MAX_GROUPS_NAMED` with their number."""
    if len(names) > MAX_GROUPS_NAMED:
        names = [*names[:MAX_GROUPS_NAMED], f"{len(names) - MAX_GROUPS_NAMED:,} more"]
    return joined(names)


def differing_kernels(groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each difference in kernels or CPU instructions, within a group or between groups.

    Such differences can change the last bits of results. Groups are compared only if they have the same backbone and
    precision, because groups with another backbone or precision are expected to differ. A group is also not
    compared with other groups if its runs used different kernels, or if each run used several kernels, as is possible
    with an LSTM head.
    """
    comparable: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        kernels = Counter(kernels_of(run) for run in group.runs)
        if len(kernels) > 1:
            found = "; ".join(f"{counted(n, 'run')} with {name}" for name, n in kernels.most_common(MAX_VALUES_NAMED))
            yield (
                f"{group.name} was computed with different kernels ({found}), so its variation over seeds includes "
                "rounding differences."
            )
        elif MIXED not in next(iter(kernels)):  # with an LSTM head, one run can use several kernels
            run = group.runs[0]
            key = json.dumps([run.config.get("backbone"), run.result.get("precision")], default=str)
            comparable[key][next(iter(kernels))].append(group.name)
    for names_by_kernels in comparable.values():
        if len(names_by_kernels) > 1:
            found = "; ".join(f"{', '.join(names)} with {kernels}" for kernels, names in names_by_kernels.items())
            yield (
                f"The groups were computed with different kernels ({sanitize(found, 300)}), so the last digits of "
                "their metrics may differ. Do not compare their times and latencies."
            )


def kernels_of(run: Run) -> str:
    """Return the recorded kernels and instructions of a run as printable text, or `UNRECORDED`."""
    recorded = run.result.get("environment")
    if not isinstance(recorded, dict) or "kernels" not in recorded:
        return UNRECORDED
    parts = [str(recorded[key]) for key in KERNEL_KEYS if recorded.get(key) is not None]
    return sanitize(" on ".join(dict.fromkeys(parts)), 80)


def run_accuracy(run: Run) -> float:
    return float(run.predictions.correct.mean())


def partial_overlaps(pairs: Iterable[PairResult], groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for each tested pair of groups whose test splits overlap only partly."""
    sizes = {group.name: len(group.ids) for group in groups}
    for pair in pairs:
        size_a, size_b = sizes[pair.a], sizes[pair.b]
        if not pair.problem and pair.shared_documents < max(size_a, size_b):
            yield (
                f"{pair.a} and {pair.b} are compared on the {pair.shared_documents:,} test documents that they share "
                f"(of {size_a:,} and {size_b:,} test documents)."
            )
