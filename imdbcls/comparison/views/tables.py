"""The tables that the terminal, the page and the Markdown file share. Each table answers one question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imdbcls.comparison.metrics import METRICS, Metric
from imdbcls.comparison.results import Calibration, Comparison, GroupSummary, MetricSummary, PairResult, PartAccuracy
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_groups, shown_pairs
from imdbcls.comparison.views.quantities import (
    NONE,
    interval_text,
    margin_text,
    signed_interval_text,
    signed_text,
    title_of,
    unit_of,
    value_text,
)
from imdbcls.comparison.views.wording import listed, p_cell, percent_text, scope
from imdbcls.printable import counted

ECE_DIGITS = 4  # decimals
FRONTS = (("head_parameters", "size"), ("train_seconds", "time"), ("latency_ms_p50", "latency"))


@dataclass(frozen=True)
class Table:
    """A table of formatted cells that answers one question; `note` explains its columns.

    A view that is too narrow leaves out `optional` columns, in the order in which they are listed.
    """

    key: str
    question: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    optional: tuple[int, ...] = ()  # indices of columns

    @property
    def num_text_columns(self) -> int:
        """Number of left-aligned columns at the left: the name, preceded by the rank if the table has a rank."""
        return 2 if self.header[0] == "" else 1

    def columns(self, indices: Sequence[int]) -> "Table":
        """Return the table with only the columns in `indices`."""
        header, *rows = [[row[i] for i in indices] for row in (self.header, *self.rows)]
        optional = tuple(indices.index(i) for i in self.optional if i in indices)
        return replace(self, header=header, rows=rows, optional=optional)

    def without(self, *indices: int) -> "Table":
        """Return the table without the columns in `indices`."""
        return self.columns([i for i in range(len(self.header)) if i not in indices])

    def without_empty_columns(self) -> "Table":
        """Return the table without columns in which every cell is `NONE`, such as ensembles of one-seed groups."""
        empty = [i for i in range(len(self.header)) if self.rows and all(row[i] == NONE for row in self.rows)]
        return self.without(*empty)


def tables_of(comparison: Comparison) -> list[Table]:
    groups, pairs = comparison.groups, shown_pairs(comparison)
    tables = [ranking(comparison)]
    if pairs:
        tables += [differences(comparison), flips(pairs)]
    if any(value is not None for group in groups for value in group.cost.values()):
        tables.append(costs(comparison))
    if any(group.calibration is not None for group in groups):
        tables.append(calibration(groups))
    return [table.without_empty_columns() for table in [*tables, *parts(groups)]]


def ranking(comparison: Comparison) -> Table:
    metric, groups = comparison.metric, comparison.groups
    others = [METRICS[name] for name in ("accuracy", "f1", "auroc") if name != metric.name]
    rows = [
        [
            str(group.rank),
            group.name,
            value_text(metric, group.primary.mean),
            interval_text(metric, group.primary.low, group.primary.high),
            value_text(metric, group.primary.std),
            str(len(group.seeds)),
            value_text(metric, group.ensemble.get(metric.key)),
            *(value_text(other, mean_of(group, other.key)) for other in others),
            percent(group.validation_accuracy),
        ]
        for group in groups
    ]
    baseline = [value_text(each, comparison.baseline.get(each.key)) for each in (metric, *others)]
    rows.append(["", "largest class", baseline[0], *[NONE] * 4, *baseline[1:], NONE])
    header = [
        *("", "group", title_of(metric), "95 % interval", "sd over seeds", "seeds", "ensemble"),
        *(title_of(other) for other in others),
        "validation accuracy %",
    ]
    several = [len(group.seeds) > 1 for group in groups]
    covers = "documents and seeds" if all(several) else "documents, and over seeds for groups with several seeds"
    if not any(several):
        covers = "documents only, because seeds were not varied"
    note = f"The interval covers the variation over {covers}. "
    if any(group.ensemble for group in groups):
        note += "Ensemble: one prediction from the probabilities averaged over seeds. "
    note += (
        "Largest class: a baseline that always predicts the most frequent class, with the class frequencies as "
        f"probabilities. {note_on_collapse(groups)} "
    )
    if len(groups) > 2:
        note += f"The {metric.title} of the best of several groups is usually too optimistic. "
    if any(group.validation_accuracy is not None for group in groups):
        note += "To tune settings such as lr, use validation accuracy, not test accuracy."
    optional = (*reversed(range(7, len(header))), 4, 6)  # validation and other metrics, the sd, then the ensemble
    return Table("ranking", "Which group is best?", header, rows, note.strip(), optional)


def note_on_collapse(groups: Sequence[GroupSummary]) -> str:
    """Return a sentence on how many runs collapsed to one class or, if none did, on the highest plausible rate."""
    collapsed, num_seeds = sum(group.num_collapsed for group in groups), sum(len(group.seeds) for group in groups)
    if collapsed:
        return f"{collapsed} of {num_seeds} runs collapsed to one class."
    fewest = min(groups, key=lambda group: len(group.seeds))
    return (
        f"No run collapsed to one class. For a group with {counted(len(fewest.seeds), 'seed')}, the true rate of "
        f"collapse may still be as high as {percent_text(fewest.largest_collapse_rate)} (95 % confidence limit)."
    )


def differences(comparison: Comparison) -> Table:
    metric, margin = comparison.metric, comparison.margin
    rows = [
        [
            f"{pair.a} - {pair.b}",
            signed_text(metric, pair.difference),
            signed_interval_text(metric, pair.low, pair.high),
            signed_interval_text(metric, pair.simultaneous_low, pair.simultaneous_high),
            p_cell(pair.p_holm),
            *([] if margin is None else [NONE if pair.equivalent is None else "yes" if pair.equivalent else "no"]),
            detectable(metric, pair.minimum_detectable_difference),
        ]
        for pair in shown_pairs(comparison)
    ]
    header = [
        "difference",
        unit_of(metric).strip() or metric.title,
        "95 % interval",
        "simultaneous",
        "p (Holm)",
        *([] if margin is None else [f"within {margin_text(metric, margin)}"]),
        "detectable",
    ]
    note = (
        "95 % interval: for this pair only. Simultaneous: with 95 % confidence, these intervals hold for "
        f"{scope(comparison)} together. p (Holm): test over documents and seeds, corrected for {scope(comparison)}; "
        '"better" needs p < 0.05. '
    )
    if any(not pair.seeds_varied for pair in comparison.pairs):
        note += "If a group has one seed, the test covers documents only. "
    if margin is not None:
        note += (
            f"Within {margin_text(metric, margin)}: whether equivalence is shown (TOST, corrected for "
            f"{scope(comparison)}). "
        )
    if any(pair.minimum_detectable_difference is not None for pair in comparison.pairs):
        note += "Detectable: the smallest true difference that this study detects with 80 % power."
    if comparison.plan is not None:
        note += " Each row shows the last planned look at the pair, so it may use fewer seeds than the groups have."
    note = f"{note_on_pairs(comparison)} {note}".strip()
    return Table("differences", "Which differences are significant?", header, rows, note, (2,))


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


def costs(comparison: Comparison) -> Table:
    metric, groups, pareto = comparison.metric, comparison.groups, comparison.pareto
    rows = [
        [
            group.name,
            value_text(metric, group.primary.mean),
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
        title_of(metric),
        "head parameters",
        "training s",
        "documents/s",
        "ms p50",
        "ms p95",
        "memory MB",
        "Pareto front",
    ]
    note = (
        "Pareto front: the costs for which the group is on the front, because every other group is worse or costs "
        "more. ms p50 and ms p95: median and 95th percentile of the latency for one document."
    )
    return Table("costs", "What does each group cost?", header, rows, note, (4, 6, 7, 8))


def calibration(groups: Sequence[GroupSummary]) -> Table:
    rows = [
        [
            group.name,
            f"{found.mean:.{ECE_DIGITS}f}",
            f"{found.expected:.{ECE_DIGITS}f}",
            p_cell(found.p),
            *scaled_cells(found),
            *(cell for name in ("test/brier", "test/loss") for cell in mean_and_interval(group.metrics.get(name))),
        ]
        for group in groups
        if (found := group.calibration) is not None
    ]
    scaled = ["temperature", "ECE scaled"]
    header = ["group", "ECE", "if calibrated", "p", *scaled, "Brier", "95 % interval", "loss", "95 % interval"]
    note = (
        "Lower ECE, Brier and loss are better. ECE: average gap between confidence and accuracy (15 bins). If "
        "calibrated: the ECE that a perfectly calibrated model with these probabilities would show. p: p-value for the "
        "hypothesis that the probabilities are calibrated. Brier: squared error of the probabilities. Loss: negative "
        "log-likelihood."
    )
    if any(group.calibration is not None and group.calibration.temperatures is not None for group in groups):
        note += (
            " Temperature: the number that divides the logits, fitted on validation (geometric mean over seeds). ECE "
            "scaled: the ECE after this division, which the commands predict and export also apply. The other columns "
            "do not use the temperature."
            f"{note_on_temperatures(groups)}"
        )
    table = Table("calibration", "Are the probabilities calibrated?", header, rows, note, (9, 7, 4))
    return table.without_empty_columns()


def note_on_temperatures(groups: Sequence[GroupSummary]) -> str:
    """Return a sentence, preceded by a space, on groups whose displayed ECE is higher after temperature scaling.

    Return an empty string if there is no such group.
    """
    raised = [
        group.name
        for group in groups
        if (found := group.calibration) is not None
        and (scaled := found.calibrated_mean) is not None
        and round(scaled, ECE_DIGITS) > round(found.mean, ECE_DIGITS)
    ]
    if not raised:
        return ""
    return (
        f" The temperature raises the ECE of {listed(raised)} on test: it was fitted on the validation split, which "
        "may be too small or differ from test. The command predict --uncalibrated does not use the temperature."
    )


def scaled_cells(calibration: Calibration) -> list[str]:
    """Return the cells for the temperature and for the ECE after scaling."""
    temperature, scaled = calibration.mean_temperature, calibration.calibrated_mean
    return [
        NONE if temperature is None else f"{temperature:.3g}",
        NONE if scaled is None else f"{scaled:.{ECE_DIGITS}f}",
    ]


def parts(groups: Sequence[GroupSummary]) -> list[Table]:
    note_on_shown, groups = note_on_groups(groups), shown_groups(groups)
    names = [group.name for group in groups]
    questions = (
        ("length", "Does length matter? Accuracy % by number of tokens", "tokens", [g.parts.length for g in groups]),
        ("truncated", "Does truncation matter? Accuracy %", "documents", [g.parts.truncated for g in groups]),
        ("class", "Which class is harder? Accuracy %", "class", [g.parts.classes for g in groups]),
        ("part", "Which part is harder? Accuracy %", "part", [g.parts.given for g in groups]),
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
    """Return a row for each part that has documents: name, number of documents, and accuracy of each group.

    If the groups differ in the number of documents, each number is in brackets after the accuracy instead.
    """
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


def detectable(metric: Metric, difference: float | None) -> str:
    """Format a detectable difference. It can exceed 100 points if a few seeds give very different results."""
    if difference is not None and metric.is_percentage and difference >= 1:
        return "> 100"
    return value_text(metric, difference)


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def integer(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"
