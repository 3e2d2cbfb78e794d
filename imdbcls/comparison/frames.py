"""Convert a comparison into data frames, and into the short HTML that a notebook shows."""

from html import escape
from typing import TYPE_CHECKING

import pandas

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.verdicts import Outcome
from imdbcls.printable import counted
from imdbcls.runs.selection import as_text

if TYPE_CHECKING:
    from imdbcls.comparison.results import Comparison

MAX_ROWS = 20  # largest number of rows in a notebook table
NONE = "\u2013"
WORDS = {outcome: str(outcome) for outcome in Outcome} | {Outcome.BETTER_HERE: "better in these runs"}


def groups_frame(comparison: "Comparison") -> pandas.DataFrame:
    """Return one row per group; see `Comparison.to_pandas`."""
    rows = [
        {
            "group": group.name,
            "head": group.head,
            "backbone": group.backbone,
            **{key: value for key, value in group.varied.items() if key != "backbone"},
            "seeds": len(group.seeds),
            "mean": group.primary.mean,
            "low": group.primary.low,
            "high": group.primary.high,
            "std": float("nan") if group.primary.std is None else group.primary.std,
            **{key: each.mean for key, each in group.metrics.items() if key != comparison.metric.key},
            **group.cost,
        }
        for group in comparison.groups
    ]
    return pandas.DataFrame(rows, index=pandas.Index([group.rank for group in comparison.groups], name="rank"))


def pairs_frame(comparison: "Comparison") -> pandas.DataFrame:
    """Return one row per pair of groups; see `Comparison.pairs_to_pandas`."""
    rows = [
        (
            *(pair.a, pair.b, pair.difference, pair.simultaneous_low, pair.simultaneous_high),
            float("nan") if pair.p_holm is None else pair.p_holm,
            WORDS[pair.outcome],
        )
        for pair in comparison.pairs
    ]
    return pandas.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "p_holm", "outcome"])


def comparison_html(comparison: "Comparison") -> str:
    """Return the ranking and the verdicts as HTML. Names are escaped, and no colours are set."""
    metric = comparison.metric
    groups = pandas.DataFrame(
        {
            "group": [group.name for group in comparison.groups],
            metric.title: [as_text(metric.name, group.primary.mean) for group in comparison.groups],
            "95 % interval": [interval(metric, group.primary.low, group.primary.high) for group in comparison.groups],
            "seeds": [len(group.seeds) for group in comparison.groups],
        },
        index=[group.rank for group in comparison.groups],
    )
    number = counted(len(comparison), "group")
    title = f"<b>{escape(comparison.study)}</b>: {number} by {metric.title} on the test split"
    parts = [f"<div>{title}</div>", table_html(groups, index=True)]
    if comparison.pairs:
        pairs = pandas.DataFrame(
            [
                (
                    f"{pair.a} \N{MINUS SIGN} {pair.b}",
                    signed(metric, pair.difference),
                    f"{signed(metric, pair.simultaneous_low)} to {signed(metric, pair.simultaneous_high)}",
                    NONE if pair.p_holm is None else f"{pair.p_holm:.3f}" if pair.p_holm >= 0.001 else "< 0.001",
                    WORDS[pair.outcome],
                )
                for pair in comparison.pairs
            ],
            columns=["pair", f"difference{' in points' if metric.is_percentage else ''}", "95 %", "p", "verdict"],
        )
        parts.append(table_html(pairs))
    return "\n".join(parts)


def table_html(frame: pandas.DataFrame, *, index: bool = False) -> str:
    """Return a data frame as an HTML table of at most `MAX_ROWS` rows, with escaped cells and without colours."""
    return frame.to_html(index=index, border=0, max_rows=MAX_ROWS, justify="left")


def interval(metric: Metric, low: float, high: float) -> str:
    return f"{as_text(metric.name, low)} to {as_text(metric.name, high)}"


def signed(metric: Metric, difference: float) -> str:
    """Return a difference with its sign, in points for a metric in percent."""
    return f"{100 * difference:+.2f}" if metric.is_percentage else f"{difference:+.4f}"
