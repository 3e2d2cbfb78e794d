"""One table per question, as rows of text; the terminal, comparison.md, the page and W&B show the same ones."""

from dataclasses import dataclass
from typing import Any

from imdbcls.comparison.verdicts import p_text
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_groups, shown_pairs

NONE = "\u2013"


@dataclass(frozen=True)
class Table:
    key: str
    question: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def tables_of(comparison: dict[str, Any]) -> list[Table]:
    groups, pairs = comparison["groups"], shown_pairs(comparison)
    tables = [ranking(groups)]
    if pairs:
        tables += [differences(pairs, comparison["margin"], note_on_pairs(comparison)), flips(pairs)]
    tables += [costs(groups, comparison["pareto"]), calibration(groups), *parts(groups)]
    return tables


def ranking(groups: list[dict[str, Any]]) -> Table:
    rows = [
        [
            str(group["rank"]),
            group["name"],
            percent(group["metrics"]["test/accuracy"]["mean"]),
            percent_interval(group["metrics"]["test/accuracy"]),
            deviation(group["metrics"]["test/accuracy"]),
            str(group["metrics"]["test/accuracy"]["n"]),
            percent(group["metrics"]["test/f1"]["mean"]),
            percent(group["metrics"]["test/auroc"]["mean"]),
            percent(group["validation_accuracy"]),
        ]
        for group in groups
    ]
    header = ["", "group", "accuracy %", "95 % interval", "sd of seeds", "seeds", "F1 %", "AUROC %", "validation %"]
    several = [len(group["seeds"]) > 1 for group in groups]
    covers = "other documents and other seeds" if all(several) else "other documents, and other seeds where several ran"
    if not any(several):
        covers = "other documents; seeds were not varied"
    note = (
        f"The interval covers {covers}. Settings of one head (its lr, say) are to be chosen by validation, not by this."
    )
    return Table("ranking", "Which is best?", header, rows, note)


def differences(pairs: list[dict[str, Any]], margin: float, note_on_shown: str) -> Table:
    rows = [
        [
            f"{pair['a']} - {pair['b']}",
            signed_points(pair["difference"]),
            f"{signed_points(pair['low'])} to {signed_points(pair['high'])}",
            p_text(pair["p_holm"]).removeprefix("= "),
            p_text(pair["p_hierarchical_holm"]).removeprefix("= "),
            "yes" if pair["equivalent"] else NONE if pair["equivalent"] is None else "no",
            detectable(pair["minimum_detectable_difference"]) + (" (underpowered)" if pair["underpowered"] else ""),
        ]
        for pair in pairs
    ]
    header = [
        "difference",
        "points",
        "95 % interval",
        "p documents",
        "p both",
        f"within {100 * margin:.3g}",
        "detectable",
    ]
    note = (
        "p documents: could these trained models differ by chance of the documents alone? p both: could the difference "
        "be chance of documents and seeds? Both after Holm's correction; a verdict needs both below 0.05. "
        "Intervals are of each pair alone, not corrected. Detectable: the smallest true difference this study would "
        "have found in 4 cases of 5; underpowered: more than the margin."
    )
    note = f"{note_on_shown} {note}".strip()
    return Table("differences", "Is the difference real?", header, rows, note)


def flips(pairs: list[dict[str, Any]]) -> Table:
    rows = []
    for pair in pairs:
        flip = pair["flips"]
        if flip is None:
            continue
        p_values = [test["p"] for test in pair["mcnemar"]]
        spread = NONE if not p_values else ", ".join(p_text(p).removeprefix("= ") for p in p_values)
        rows.append(
            [
                f"{pair['a']} / {pair['b']}",
                f"{flip['a_only']:.0f} / {flip['b_only']:.0f}",
                f"{flip['a_only_in_every_seed']} / {flip['b_only_in_every_seed']}",
                spread,
            ]
        )
    header = ["first / second", "only one right, mean", "in every seed", "McNemar p per shared seed"]
    note = "McNemar's p is of two trained models, not corrected for their number, and decides nothing here."
    return Table("flips", "Which documents does only one get right?", header, rows, note)


def costs(groups: list[dict[str, Any]], pareto: dict[str, list[str]]) -> Table:
    rows = [
        [
            group["name"],
            percent(group["metrics"]["test/accuracy"]["mean"]),
            whole(group["cost"]["head_parameters"]),
            whole(group["cost"]["train_seconds"]),
            whole(group["cost"]["documents_per_second"]),
            decimal(group["cost"]["latency_ms_p50"]),
            decimal(group["cost"]["latency_ms_p95"]),
            whole(group["cost"]["peak_memory_mb"]),
            ", ".join(
                label
                for cost, label in (
                    ("head_parameters", "size"),
                    ("train_seconds", "time"),
                    ("latency_ms_p50", "latency"),
                )
                if group["name"] in pareto[cost]
            )
            or NONE,
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
    note = (
        "Front: no other group's mean is as accurate and as cheap. ms: one document at a time, median and slowest 5 %."
    )
    return Table("costs", "What does it cost?", header, rows, note)


def calibration(groups: list[dict[str, Any]]) -> Table:
    rows = [
        [
            group["name"],
            *(
                text
                for name in ("test/ece", "test/brier", "test/loss")
                for text in (decimal(group["metrics"][name]["mean"], 4), decimal_interval(group["metrics"][name]))
            ),
        ]
        for group in groups
    ]
    header = ["group", "ECE", "95 % interval", "Brier", "95 % interval", "loss", "95 % interval"]
    note = "Lower is better. ECE: how far confidence and accuracy lie apart on average (15 bins). Brier: squared error."
    return Table("calibration", "Do the probabilities mean what they say?", header, rows, note)


def parts(groups: list[dict[str, Any]]) -> list[Table]:
    questions = {
        "length": ("How does length matter? Accuracy % by tokens", "tokens"),
        "truncated": ("Read whole or cut? Accuracy %", "documents"),
        "class": ("Which class is hard? Accuracy %", "class"),
    }
    tables = []
    note_on_shown, groups = note_on_groups(groups), shown_groups(groups)
    for key, (question, first) in questions.items():
        by_group = [{part["part"]: part for part in group["parts"][key]} for group in groups]
        rows = []
        for name in dict.fromkeys(name for parts in by_group for name in parts):
            counts = [parts[name]["documents"] if name in parts else 0 for parts in by_group]
            means = [percent(parts[name]["mean"]) if name in parts else NONE for parts in by_group]
            if len({count for count in counts if count}) > 1:  # another tokenizer, or another length: not the same ones
                means = [f"{mean} ({count:,})" if count else NONE for mean, count in zip(means, counts, strict=True)]
                rows.append([name, NONE, *means])
            elif any(counts):
                rows.append([name, f"{max(counts):,}", *means])
        if rows:
            note = (
                "In brackets: the documents of this part, where groups do not have the same."
                if NONE in {row[1] for row in rows}
                else ""
            )
            note = f"{note_on_shown} {note}".strip()
            tables.append(Table(key, question, [first, "count", *(group["name"] for group in groups)], rows, note))
    return tables


def detectable(difference: float | None) -> str:
    """In points; few seeds that differ much can ask for more than there are."""
    if difference is None:
        return NONE
    return f"{100 * difference:.2f}" if difference < 1 else "> 100"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def percent_interval(figures: dict[str, Any]) -> str:
    return NONE if figures["low"] is None else f"{percent(figures['low'])} to {percent(figures['high'])}"


def deviation(figures: dict[str, Any]) -> str:
    return NONE if figures["std"] is None else f"{100 * figures['std']:.2f}"


def signed_points(value: float) -> str:
    return f"{100 * value:+.2f}"


def whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def decimal_interval(figures: dict[str, Any]) -> str:
    return NONE if figures["low"] is None else f"{figures['low']:.4f} to {figures['high']:.4f}"
