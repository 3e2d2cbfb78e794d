"""The panels that the W&B workspace and the W&B report of a study share. Each section answers one question.

The panels show tables and figures that `log_comparison` and `WandbTracker` log. Curves and bars show the mean over the
seeds of a group, with a range from the minimum to the maximum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.quantities import upper_first
from imdbcls.tracking.pages import MAX_CLASSES
from imdbcls.tracking.runsets import GROUP_LABEL

FIGURE = "comparison/figures/{}"
CONFUSION_TABLE = "view/test_confusion_matrix_table"
CONFUSIONS_TABLE = "view/test_confusions"
MISTAKES_TABLE = "view/test_mistakes"
COSTS = {  # keys of a run's W&B summary
    "train_seconds": "training time (s)",
    "parameters": "parameters",
    "head_parameters": "head parameters",
    "latency_ms.p50": "median latency (ms)",
}
COLUMNS = 24  # columns in the grid of a report
WIDE, HALF = {"w": COLUMNS, "h": 8}, {"w": COLUMNS // 2, "h": 8}


@dataclass(frozen=True)
class PanelSection:
    """Panels under one title. A workspace shows `num_columns` panels side by side."""

    title: str
    panels: list[Any]
    num_columns: int = 2


def sections_of(comparison: Comparison, figures: Iterable[str], swept: Mapping[str, bool]) -> list[PanelSection]:
    """Return the sections that have at least one panel.

    `figures` are the names of the figures that the comparison run logs. `swept` maps each config key that differs in
    the study to a flag, which says whether the axis of the key is logarithmic.
    """
    metric, names = comparison.metric, list(figures)
    sections = [
        PanelSection(f"Test {metric.title}", test_panels(metric, names)),
        PanelSection("Training and validation", curve_panels(metric), num_columns=3),
        PanelSection("Training size", media(names, "sizes", "Metric by training size"), num_columns=1),
        PanelSection("Cost", cost_panels(metric, names)),
        PanelSection("Settings", settings_panels(metric, swept), num_columns=1),
        PanelSection("Confusion matrices", confusion_panels(names, len(comparison.label_names)), num_columns=1),
        PanelSection("Calibration", calibration_panels(names)),
        PanelSection("Mistakes", mistake_panels(names), num_columns=1),
    ]
    return [section for section in sections if section.panels]


def test_panels(metric: Metric, figures: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    bars = reports.BarPlot(
        title=f"Test {metric.title}: mean, minimum and maximum over seeds",
        metrics=[metric.key],
        **grouped(),
        layout=reports.Layout(**WIDE),
    )
    return [
        *media(figures, "accuracy", f"Test {metric.title}: 95 % interval, and seeds as circles"),
        bars,
        *media(figures, "differences", "Differences with simultaneous 95 % intervals"),
    ]


def curve_panels(metric: Metric) -> list[Any]:
    """Return one plot per curve: the mean over a group's seeds, with a band from the minimum to the maximum."""
    import wandb_workspaces.reports.v2 as reports

    curves = dict.fromkeys([f"val/{metric.name}", "val/loss", "train/loss"])
    return [
        reports.LinePlot(title=curve, x="step", y=[curve], **grouped(), layout=reports.Layout(**HALF))
        for curve in curves
    ]


def cost_panels(metric: Metric, figures: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    scatters = [
        reports.ScatterPlot(
            title=f"Test {metric.title} and {name}",
            x=reports.SummaryMetric(cost),
            y=reports.SummaryMetric(metric.key),
            legend_template=f"${{config:{GROUP_LABEL}}} ${{run:displayName}}",
            layout=reports.Layout(**HALF),
        )
        for cost, name in COSTS.items()
    ]
    return [*media(figures, "cost_", f"Test {metric.title} and cost, with the Pareto front"), *scatters]


def settings_panels(metric: Metric, swept: Mapping[str, bool]) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    axes = [
        *(
            reports.ParallelCoordinatesPlotColumn(reports.Config(key), display_name=key, log=log or None)
            for key, log in swept.items()
        ),
        *(
            reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(key), display_name=key)
            for key in (f"val/{metric.name}", metric.key)
        ),
    ]
    parallel = reports.ParallelCoordinatesPlot(
        title="Settings that differ, and the metric", columns=axes, layout=reports.Layout(**WIDE)
    )
    comparer = reports.RunComparer(diff_only="split", layout=reports.Layout(**WIDE))
    return [parallel, comparer] if swept else [comparer]


def confusion_panels(figures: list[str], num_classes: int) -> list[Any]:
    """Return a panel with the confusion matrix of each group, and a chart with the matrix of the selected runs.

    With more than `MAX_CLASSES` classes, return only a table of the most frequent confusions.
    """
    import wandb_workspaces.reports.v2 as reports

    if num_classes > MAX_CLASSES:
        return [reports.WeavePanelSummaryTable(table_name=CONFUSIONS_TABLE, layout=reports.Layout(**WIDE))]
    columns = ("Actual", "Predicted", "nPredictions")
    chart = reports.CustomChart(
        query={"summaryTable": {"tableKey": CONFUSION_TABLE}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={column: column for column in columns},
        chart_strings={"title": "Confusion matrix of the selected runs, test split"},
        layout=reports.Layout(**WIDE),
    )
    return [*media(figures, "confusion_matrices", "Confusion matrix of each group, summed over seeds"), chart]


def calibration_panels(figures: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    reliability = media(figures, "reliability_", "Accuracy by confidence (reliability)")
    if not reliability:  # the runs have no probabilities
        return []
    bars = reports.BarPlot(
        title="Expected calibration error (lower is better): mean, minimum and maximum over seeds",
        metrics=["test/ece"],
        **grouped(),
        layout=reports.Layout(**WIDE),
    )
    return [*reliability, bars]


def mistake_panels(figures: list[str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    table = reports.WeavePanelSummaryTable(table_name=MISTAKES_TABLE, layout=reports.Layout(**WIDE))
    return [table, *media(figures, "length", "Accuracy by document length")]


def media(figures: list[str], prefix: str, title: str) -> list[Any]:
    """Return a list with one panel that shows all figures whose names start with `prefix`, or an empty list."""
    import wandb_workspaces.reports.v2 as reports

    keys = [FIGURE.format(name) for name in figures if name.startswith(prefix)]
    if not keys:
        return []
    columns = min(len(keys), 2)
    height = 8 * ((len(keys) + columns - 1) // columns)
    layout = reports.Layout(w=COLUMNS, h=height)
    return [reports.MediaBrowser(title=upper_first(title), media_keys=keys, num_columns=columns, layout=layout)]


def grouped() -> dict[str, Any]:
    """Return the options of a plot that shows the mean and the range of each group over its runs."""
    import wandb_workspaces.reports.v2 as reports

    return {
        "groupby": reports.Config(GROUP_LABEL),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
    }
