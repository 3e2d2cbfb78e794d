"""The tables of a comparison, each of which answers one question. All views show the same tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imdbcls.comparison.results import Comparison, GroupSummary, MetricSummary, PairResult, PartAccuracy
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_groups, shown_pairs
from imdbcls.comparison.views.wording import p_cell, points

NONE = "\u2013"
FRONTS = (("head_parameters", "size"), ("train_seconds", "time"), ("latency_ms_p50", "latency"))


@dataclass(frozen=True)
class Table:
    """A table of formatted cells that answers one question; `note` explains its columns."""

    key: str
    question: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    @property
    def num_text_columns(self) -> int:
        """Number of left-aligned columns at the left: the name, preceded by the rank if the table has a rank."""
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
    header = ["", "group", "accuracy %", "95 % interval", "sd over seeds", "seeds", "F1 %", "AUROC %", "validation %"]
    several = [len(group.seeds) > 1 for group in groups]
    covers = "documents and seeds" if all(several) else "documents, and over seeds for groups with several seeds"
    if not any(several):
        covers = "documents only, because seeds were not varied"
    note = (
        f"The interval covers the variation over {covers}. To tune settings such as lr, use validation accuracy, not "
        "test accuracy."
    )
    return Table("ranking", "Which group is best?", header, rows, note)


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
        "p (documents)",
        "p (+ seeds)",
        f"within {points(margin)}",
        "detectable",
    ]
    note = (
        "p (documents): permutation test over documents, for these trained models. p (+ seeds): test over documents "
        'and seeds. Both are Holm-corrected, and "better" needs both below 0.05. The intervals are not corrected for '
        f"multiple comparisons. Within {points(margin)}: whether equivalence is shown (TOST). Detectable: the smallest "
        "true difference that this study detects with 80 % power. Underpowered: the detectable difference is larger "
        "than the margin."
    )
    note = f"{note_on_shown} {note}".strip()
    return Table("differences", "Which differences are significant?", header, rows, note)


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
    header = ["first / second", "only one right (mean)", "in every seed", "McNemar p per shared seed"]
    note = (
        "McNemar's test compares two trained models. It is not corrected for multiple testing and does not affect the "
        "verdict."
    )
    return Table("flips", "How many documents does only one group of a pair get right?", header, rows, note)


def costs(groups: Sequence[GroupSummary], pareto: Mapping[str, tuple[str, ...]]) -> Table:
    rows = [
        [
            group.name,
            percent(group.accuracy.mean),
            integer(group.cost["head_parameters"]),
            integer(group.cost["train_seconds"]),
            integer(group.cost["documents_per_second"]),
            decimal(group.cost["latency_ms_p50"]),
            decimal(group.cost["latency_ms_p95"]),
            integer(group.cost["peak_memory_mb"]),
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
        "Pareto front",
    ]
    note = (
        "Pareto front: the costs for which every other group is less accurate or costs more. ms p50 and ms p95: median "
        "and 95th percentile of the latency for one document."
    )
    return Table("costs", "What does each group cost?", header, rows, note)


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
    note = (
        "Lower is better. ECE: average gap between confidence and accuracy (15 bins). Brier: squared error of the "
        "probabilities. Loss: negative log-likelihood."
    )
    return Table("calibration", "Are the probabilities calibrated?", header, rows, note)


def parts(groups: Sequence[GroupSummary]) -> list[Table]:
    note_on_shown, groups = note_on_groups(groups), shown_groups(groups)
    names = [group.name for group in groups]
    questions = (
        ("length", "Does length matter? Accuracy % by number of tokens", "tokens", [g.parts.length for g in groups]),
        ("truncated", "Does truncation matter? Accuracy %", "documents", [g.parts.truncated for g in groups]),
        ("class", "Which class is harder? Accuracy %", "class", [g.parts.classes for g in groups]),
    )
    tables = []
    for key, question, first, by_group in questions:
        rows = part_rows(by_group)
        if rows:
            note = (
                "In brackets: the number of documents, if it differs between groups."
                if NONE in {row[1] for row in rows}
                else ""
            )
            tables.append(Table(key, question, [first, "count", *names], rows, f"{note_on_shown} {note}".strip()))
    return tables


def part_rows(by_group: Sequence[Sequence[PartAccuracy]]) -> list[list[str]]:
    """Return a row for each part that has documents: name, number of documents, and accuracy of each group."""
    part_of = [{part.name: part for part in parts} for parts in by_group]
    rows = []
    for name in dict.fromkeys(part.name for parts in by_group for part in parts):
        found = [parts.get(name) for parts in part_of]
        counts = [0 if part is None else part.num_documents for part in found]
        cells = [NONE if part is None or part.accuracy is None else percent(part.accuracy.mean) for part in found]
        if len({count for count in counts if count}) > 1:  # the groups differ in their tokenizer or max_length
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
    """Format a detectable difference in points. It can exceed 100 points if a few seeds give very different results."""
    if difference is None:
        return NONE
    return f"{100 * difference:.2f}" if difference < 1 else "> 100"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def signed_points(value: float) -> str:
    return f"{100 * value:+.2f}"


def integer(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"
