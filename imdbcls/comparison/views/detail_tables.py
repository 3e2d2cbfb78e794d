"""The tables that only the page shows: runs, training sizes, settings, scores of each class, and confusions."""

from collections.abc import Sequence
from dataclasses import dataclass

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison, Crossing, GroupSummary
from imdbcls.comparison.views.extent import note_on_groups, shown_groups
from imdbcls.comparison.views.quantities import NONE, interval_text, title_of, unit_of, upper_first, value_text
from imdbcls.comparison.views.tables import Table, integer, percent

MAX_RUNS = 200
MAX_CLASSES = 12  # classes in a confusion matrix; with more classes, the most frequent confusions are listed
MAX_CONFUSIONS = 10  # per group
NUM_SHADES = 8  # number of shades for the cells of a confusion matrix


@dataclass(frozen=True)
class ConfusionMatrix:
    """The confusion matrix of one group: for each true class, counts with a shade from 0 to `NUM_SHADES`."""

    group: str
    rows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]


def detail_tables_of(comparison: Comparison) -> list[Table]:
    tables = [runs(comparison), class_scores(comparison)]
    if comparison.size_curves:
        tables.append(sizes(comparison))
    if comparison.shared_settings:
        tables.append(
            Table("settings", "Which settings do all groups share?", ["setting", "value"], rows_of_settings(comparison))
        )
    if comparison.differing_settings:
        tables.append(differing_settings(comparison))
    if len(comparison.label_names) > MAX_CLASSES:
        tables.append(confusions(comparison))
    return [table.without_empty_columns() for table in tables]


def runs(comparison: Comparison) -> Table:
    metric = comparison.metric
    rows = [
        [
            run.name,
            group.name,
            str(run.seed),
            value_text(metric, run.validation),
            value_text(metric, run.test),
            NONE if run.best_epoch is None else str(run.best_epoch),
            integer(run.train_seconds),
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    title = title_of(metric)
    header = ["run", "group", "seed", f"validation {title}", f"test {title}", "best epoch", "training s"]
    note = ""
    if any(run.best_epoch is not None for group in comparison.groups for run in group.runs):
        note = (
            "Best epoch: the epoch with the best validation score. Its model, or the greedy soup if the run computed "
            "one, is evaluated on the test documents."
        )
    if len(rows) > MAX_RUNS:
        note += f" Only the first {MAX_RUNS} of {len(rows):,} runs are shown. comparison.json contains all runs."
    return Table("runs", "Which runs were compared?", header, rows[:MAX_RUNS], note.strip())


def sizes(comparison: Comparison) -> Table:
    metric, curves = comparison.metric, comparison.size_curves
    columns = sorted({point.train_documents for curve in curves for point in curve.points})
    rows = []
    for curve in curves:
        found = {point.train_documents: point.value for point in curve.points}
        cells = [
            f"{value_text(metric, value.mean)} ({interval_text(metric, value.low, value.high)})"
            if (value := found.get(size))
            else NONE
            for size in columns
        ]
        rows.append([curve.name, *cells])
    question = f"{metric.title} by the number of training documents"
    note = "In brackets: 95 % confidence intervals over documents, and over seeds if a group has several."
    return Table("sizes", upper_first(question), ["head", *(f"{n:,}" for n in columns)], rows, note)


def crossing_sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each crossing of two curves by training size."""
    return [crossing_sentence(each, comparison.metric) for each in comparison.crossings]


def crossing_sentence(crossing: Crossing, metric: Metric) -> str:
    (small, large), unit = crossing.sizes, unit_of(metric)
    before, after = (f"{value_text(metric, lead)}{unit}" for lead in crossing.leads)
    significant = {
        (True, True): "Both differences are significant.",
        (True, False): f"Only the difference with {small:,} documents is significant.",
        (False, True): f"Only the difference with {large:,} documents is significant.",
        (False, False): "Neither difference is significant, so the crossing may be due to chance.",
    }[crossing.significant]
    return (
        f"With {small:,} training documents, {crossing.before} is ahead of {crossing.after} by {before}. With "
        f"{large:,}, {crossing.after} is ahead by {after}. The curves cross in between. {significant}"
    )


def rows_of_settings(comparison: Comparison) -> list[list[str]]:
    return [[key, value] for key, value in comparison.shared_settings.items()]


def differing_settings(comparison: Comparison) -> Table:
    groups = shown_groups(comparison.groups)
    rows = [
        [key, *(value or NONE for value in values[: len(groups)])]
        for key, values in comparison.differing_settings.items()
    ]
    header = ["setting", *(group.name for group in groups)]
    note = note_on_groups(comparison.groups)
    return Table("differing", "In which settings do the groups differ?", header, rows, note)


def class_scores(comparison: Comparison) -> Table:
    """Return a table with a row for each class and group, so that the groups can be compared for each class."""
    groups = shown_groups(comparison.groups)
    rows = [
        [
            score.name,
            group.name,
            f"{score.num_documents:,}",
            *(percent(x) for x in (score.precision, score.recall, score.f1)),
        ]
        for c, _ in enumerate(comparison.label_names)
        for group in groups
        for score in group.class_scores[c : c + 1]
    ]
    note = (
        "Means over seeds. Precision: share of the documents predicted as this class that have this label. Recall: "
        "share of the documents with this label that are predicted as this class. F1: harmonic mean of both."
    )
    header = ["class", "group", "documents", "precision %", "recall %", "F1 %"]
    return Table(
        "scores", "Which class is easy to find?", header, rows, f"{note_on_groups(comparison.groups)} {note}".strip()
    )


def confusion_matrices(comparison: Comparison) -> list[ConfusionMatrix]:
    """Return the confusion matrices of the best groups, or an empty list if there are too many classes."""
    if len(comparison.label_names) > MAX_CLASSES:
        return []
    return [
        ConfusionMatrix(
            group.name,
            tuple(
                (name, tuple((f"{count:,}", shade(count, sum(counts))) for count in counts))
                for name, counts in zip(comparison.label_names, group.confusion_matrix, strict=True)
            ),
        )
        for group in shown_groups(comparison.groups)
    ]


def shade(count: int, total: int) -> int:
    """Return 0 if `count` is 0, else a shade from 1 to `NUM_SHADES` in proportion to `count / total`."""
    return 0 if count == 0 else max(1, round(NUM_SHADES * count / total))


def confusions(comparison: Comparison) -> Table:
    rows = [row for group in shown_groups(comparison.groups) for row in most_frequent(group, comparison.label_names)]
    header = ["group", "label", "predicted", "documents", "% of the label"]
    note = f"{note_on_groups(comparison.groups)} Counts are summed over seeds.".strip()
    return Table("confusions", "Which classes are confused most often?", header, rows, note)


def most_frequent(group: GroupSummary, names: Sequence[str]) -> list[list[str]]:
    wrong = [
        (count, label, predicted)
        for label, counts in enumerate(group.confusion_matrix)
        for predicted, count in enumerate(counts)
        if count and label != predicted
    ]
    wrong.sort(key=lambda each: (-each[0], each[1:]))
    return [
        [group.name, names[label], names[predicted], f"{count:,}", percent(count / sum(group.confusion_matrix[label]))]
        for count, label, predicted in wrong[:MAX_CONFUSIONS]
    ]
