"""Render a tuning study as one self-contained HTML page, with the style and the figures of a comparison."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from imdbcls.comparison.results import CurvePoint
from imdbcls.comparison.tuning_results import GroupResult, TuningResults
from imdbcls.comparison.views import svg
from imdbcls.comparison.views.figure_types import Axis, CurvePlot, padded
from imdbcls.comparison.views.quantities import scale_of, title_of
from imdbcls.comparison.views.svg_figures import drawings_of
from imdbcls.comparison.views.templates import packaged, source_hash, templates
from imdbcls.comparison.views.tuning_tables import (
    all_trials,
    budgets,
    cautions,
    expectations,
    headline,
    hours_sentence,
    notes,
)

RIGHT_MARGIN = 1.03  # so that the last marker is not cut off


def tuning_html(results: TuningResults) -> str:
    """Return the page. It loads nothing from the network and has no script."""
    style = Markup(packaged("figures.css") + packaged("page.css"))
    return (
        templates()
        .get_template("tuning.html")
        .render(
            style=style,
            style_hash=source_hash(style),
            study=results.study,
            headline=headline(results),
            hours=hours_sentence(results),
            cautions=cautions(results),
            facts=facts(results),
            notes=notes(results),
            figures=[Markup(drawing) for drawing in drawings_of(curves(results)).values()],
            legend=[(svg.colour(i), svg.shape(i), group.name) for i, group in enumerate(results.groups)],
            tables=[expectations(results), budgets(results), all_trials(results)],
            metric=results.metric.title,
            term_of=lambda title: None,  # this page defines no terms
        )
    )


def facts(results: TuningResults) -> str:
    """Return a line on the budget, the pruner, the sampler and the search space."""
    settings = results.settings
    budget = settings["budget"]
    limit = f"{budget['trials']} trials" if budget["hours"] is None else f"{budget['hours']:g} hours"
    space = "; ".join(f"{key}: {described(values)}" for key, values in settings["space"].items())
    return f"{limit} per group, pruner {settings['pruner']}, sampler {settings['sampler']}. Search space: {space}."


def described(values: Mapping[str, Any]) -> str:
    """Return the values of one key, such as "1e-05 to 0.001, log" or "16, 32"."""
    if "choices" in values:
        return ", ".join(map(str, values["choices"]))
    low, high = values["interval"]
    step = f", step {values['step']:g}" if "step" in values else ""
    return f"{low:g} to {high:g}{', log' if values.get('log') else ''}{step}"


def curves(results: TuningResults) -> dict[str, CurvePlot]:
    """Return figures of the expected best of n trials, by n and by time. Figures without data are left out."""
    groups = results.groups
    if not any(group.expected for group in groups):
        return {}
    by_trials = plot(results, "trials", [1.0] * len(groups))
    seconds = [group.seconds_per_trial for group in groups]
    if min(seconds) <= 0:
        return {"trials": by_trials}
    unit, size = unit_of(max(group.seconds for group in groups))
    return {"trials": by_trials, "time": plot(results, unit, [each / size for each in seconds])}


def unit_of(seconds: float) -> tuple[str, float]:
    """Return the unit for a time axis that ends at `seconds`, and the number of seconds in this unit."""
    return ("hours", 3600.0) if seconds >= 5400 else ("minutes", 60.0) if seconds >= 90 else ("seconds", 1.0)


def plot(results: TuningResults, unit: str, costs: list[float]) -> CurvePlot:
    """Return one curve per group. `costs` contains, for each group, the cost of one trial in `unit`."""
    groups, scale = results.groups, scale_of(results.metric)
    drawn = tuple(curve(group, cost, scale) for group, cost in zip(groups, costs, strict=True))
    points = [point for found in drawn for point in found]
    x = Axis(unit, 0.0, RIGHT_MARGIN * max(point.epoch for point in points), whole=unit == "trials")
    y = Axis(
        f"expected best validation {title_of(results.metric)}",
        *padded([value for point in points for value in (point.low, point.high)]),
    )
    names, counts = tuple(group.name for group in groups), tuple(len(group.trials) for group in groups)
    return CurvePlot(names, drawn, (), ((),) * len(groups), counts, x, y)


def curve(group: GroupResult, cost: float, scale: float) -> tuple[CurvePoint, ...]:
    """Return the points of one curve, with a band of one standard deviation."""
    return tuple(
        CurvePoint(n * cost, scale * each.value, scale * (each.value - each.std), scale * (each.value + each.std), n)
        for n, each in enumerate(group.expected, start=1)
    )
