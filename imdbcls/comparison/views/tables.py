"""One table per question, as rows of text; the terminal, comparison.md, the page and W&B show the same ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imdbcls.comparison.results import Comparison, GroupSummary, MetricSummary, PairResult, PartAccuracy
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_groups, shown_pairs
from imdbcls.comparison.views.wording import p_cell, points

NONE = "\u2013"
FRONTS = (("head_parameters", "size"), ("train_seconds", "time"), ("latency_ms_p50", "latency"))


@dataclass(frozen=True)
class Table:
    key: str
    question: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    @property
    def num_text_columns(self) -> int:
        """Columns of text, before those of figures: a rank is followed by the name that it belongs to."""
        return 2 if self.header[0] == "" else 1


def tables_of(comparison: Comparison) -> list[Table]:
    groups, pairs = comparison.groups, shown_pairs(comparison)
    tables = [ranking(groups)]
    if pairs:
        tables += [differences(pairs, comparison.margin, note_on_pairs(comparison)), flips(pairs)]
    tables += [costs(groups, comparison.pareto), calibration(groups), *parts(groups)]
    return tables


def ranking(groups: Sequence[GroupSummary]) -> Table:
    rows = [
        [
            str(group.rank),
            group.name,
            percent(group.accuracy.mean),
            f"{percent(group.accuracy.low)} to {percent(group.accuracy.high)}",
            percent(group.accuracy.std),
            str(len(group.seeds)),
            percent(mean_of(group, "test/f1")),
            percent(mean_of(group, "test/auroc")),
            percent(group.validation_accuracy),
        ]
        for group in groups
    ]
    header = ["", "group", "accuracy %", "95 % interval", "sd of seeds", "seeds", "F1 %", "AUROC %", "validation %"]
    several = [len(group.seeds) > 1 for group in groups]
    covers = "other documents and other seeds" if all(several) else "other documents, and other seeds where several ran"
    if not any(several):
        covers = "other documents; seeds were not varied"
    note = f"The interval covers {covers}. Choose the settings of a head, such as lr, by validation, not by this table."
    return Table("ranking", "Which is best?", header, rows, note)


def differences(pairs: Sequence[PairResult], margin: float, note_on_shown: str) -> Table:
    rows = [
        [
            f"{pair.a} - {pair.b}",
            signed_points(pair.difference),
            f"{signed_points(pair.low)} to {signed_points(pair.high)}",
            p_cell(pair.p_holm),
            p_cell(pair.p_hierarchical_holm),
            NONE if pair.equivalent is None else "yes" if pair.equivalent else "no",
            detectable(pair.minimum_detectable_difference) + (" (underpowered)" if pair.underpowered else ""),
        ]
        for pair in pairs
    ]
    header = [
        "difference",
        "points",
        "95 % interval",
        "p documents",
        "p both",
        f"within {points(margin)}",
        "detectable",
    ]
    note = (
        "p documents: could the choice of documents explain the difference of these trained models? p both: could the "
        "choice of documents and seeds explain it? Both after Holm's correction; a verdict needs both below 0.05. "
        "Intervals are not corrected for the number of pairs. Detectable: the smallest true difference this study "
        "would have found in 4 cases of 5; underpowered: more than the margin."
    )
    note = f"{note_on_shown} {note}".strip()
    return Table("differences", "Is the difference real?", header, rows, note)


def flips(pairs: Sequence[PairResult]) -> Table:
    rows = [
        [
            f"{pair.a} / {pair.b}",
            f"{pair.flips.a_only:.0f} / {pair.flips.b_only:.0f}",
            f"{pair.flips.a_only_in_every_seed} / {pair.flips.b_only_in_every_seed}",
            ", ".join(p_cell(test.p) for test in pair.mcnemar) or NONE,
        ]
        for pair in pairs
        if pair.flips is not None
    ]
    header = ["first / second", "only one right, mean", "in every seed", "McNemar p per shared seed"]
    note = (
        "McNemar's p compares two trained models, is not corrected for multiple tests and does not enter the verdict."
    )
    return Table("flips", "Which documents does only one get right?", header, rows, note)


def costs(groups: Sequence[GroupSummary], pareto: Mapping[str, tuple[str, ...]]) -> Table:
    rows = [
        [
            group.name,
            percent(group.accuracy.mean),
            whole(group.cost["head_parameters"]),
            whole(group.cost["train_seconds"]),
            whole(group.cost["documents_per_second"]),
            decimal(group.cost["latency_ms_p50"]),
            decimal(group.cost["latency_ms_p95"]),
            whole(group.cost["peak_memory_mb"]),
            ", ".join(label for cost, label in FRONTS if group.name in pareto[cost]) or NONE,
        ]
        for group in groups
    ]
    header = [
        "group",
        "accuracy %",
        "head parameters",
        "training s",
        "documents/s",
        "ms p50",
        "ms p95",
        "memory MB",
        "front",
    ]
    note = "Front: no other group is both as accurate and as cheap. ms: one document at a time, median and slowest 5 %."
    return Table("costs", "What does it cost?", header, rows, note)


def calibration(groups: Sequence[GroupSummary]) -> Table:
    rows = [
        [
            group.name,
            *(
                cell
                for name in ("test/ece", "test/brier", "test/loss")
                for cell in mean_and_interval(group.metrics.get(name))
            ),
        ]
        for group in groups
    ]
    header = ["group", "ECE", "95 % interval", "Brier", "95 % interval", "loss", "95 % interval"]
    note = "Lower is better. ECE: how far confidence and accuracy lie apart on average (15 bins). Brier: squared error."
    return Table("calibration", "Do the probabilities mean what they say?", header, rows, note)


def parts(groups: Sequence[GroupSummary]) -> list[Table]:
    note_on_shown, groups = note_on_groups(groups), shown_groups(groups)
    names = [group.name for group in groups]
    questions = (
        ("length", "How does length matter? Accuracy % by tokens", "tokens", [g.parts.length for g in groups]),
        ("truncated", "Read whole or cut? Accuracy %", "documents", [g.parts.truncated for g in groups]),
        ("class", "Which class is hard? Accuracy %", "class", [g.parts.classes for g in groups]),
    )
    tables = []
    for key, question, first, by_group in questions:
        rows = part_rows(by_group)
        if rows:
            note = (
                "In brackets: the number of documents of this part, if it differs between groups."
                if NONE in {row[1] for row in rows}
                else ""
            )
            tables.append(Table(key, question, [first, "count", *names], rows, f"{note_on_shown} {note}".strip()))
    return tables


def part_rows(by_group: Sequence[Sequence[PartAccuracy]]) -> list[list[str]]:
    """Return a row per part that has documents: its name, their count, and each group's accuracy."""
    part_of = [{part.name: part for part in parts} for parts in by_group]
    rows = []
    for name in dict.fromkeys(part.name for parts in by_group for part in parts):
        found = [parts.get(name) for parts in part_of]
        counts = [0 if part is None else part.num_documents for part in found]
        cells = [NONE if part is None or part.accuracy is None else percent(part.accuracy.mean) for part in found]
        if len({count for count in counts if count}) > 1:  # another tokenizer, or another length: not the same ones
            cells = [f"{cell} ({count:,})" if count else NONE for cell, count in zip(cells, counts, strict=True)]
            rows.append([name, NONE, *cells])
        elif any(counts):
            rows.append([name, f"{max(counts):,}", *cells])
    return rows


def mean_of(group: GroupSummary, metric: str) -> float | None:
    return None if (summary := group.metrics.get(metric)) is None else summary.mean


def mean_and_interval(metric: MetricSummary | None) -> tuple[str, str]:
    return (NONE, NONE) if metric is None else (f"{metric.mean:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")


def detectable(difference: float | None) -> str:
    """Return a detectable difference in points; few seeds that differ much can ask for more than there are."""
    if difference is None:
        return NONE
    return f"{100 * difference:.2f}" if difference < 1 else "> 100"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def signed_points(value: float) -> str:
    return f"{100 * value:+.2f}"


def whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"
