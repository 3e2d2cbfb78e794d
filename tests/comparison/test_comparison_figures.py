"""The figures of a comparison show seeds, best epochs, the spread of costs, and reference lines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.figure_types import Axis, CostPlane, CurvePlot, IntervalPlot
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.svg_figures import drawings_of


def compared(study: Path, metric: str = "accuracy") -> Comparison:
    return compare_study(read_study(study), METRICS[metric], METRICS[metric].default_margin)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    study = make_study(tmp_path_factory.mktemp("figures") / "heads", HEADS[:3], seeds=[0, 1, 2], num_documents=200)
    path = study / "cls-s1/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best_epoch": 2}))
    return compared(study)


Kind = TypeVar("Kind")


def figure(comparison: Comparison, name: str, kind: type[Kind]) -> Kind:
    found = figures_of(comparison)[name]
    assert isinstance(found, kind)
    return found


def test_epoch_ticks_are_whole_numbers(comparison: Comparison) -> None:
    for high in (1.0, 2.0, 3.0, 40.0):
        ticks = Axis("epoch", 1.0, high, whole=True).ticks()
        assert ticks and all(tick == int(tick) for tick in ticks) and len(ticks) <= 9
    assert figure(comparison, "curves_accuracy", CurvePlot).x.ticks() == [1, 2, 3]


def test_curves_mark_the_best_epochs_of_the_seeds(comparison: Comparison) -> None:
    plot = figure(comparison, "curves_accuracy", CurvePlot)
    best = {name: [(b.epoch, b.num_seeds) for b in found] for name, found in zip(plot.names, plot.best, strict=True)}
    assert best == {"transformer": [(3, 3)], "cls": [(2, 1), (3, 2)], "lstm": [(3, 3)]}
    drawing = drawings_of({"curves": plot})["curves"]
    assert drawing.count('class="best ') == 4 and "cls: best epoch of 2 of 3 seeds" in drawing


def test_loss_panel_shows_the_training_loss_of_few_groups(comparison: Comparison, tmp_path: Path) -> None:
    plot = figure(comparison, "curves_loss", CurvePlot)
    assert [len(curve) for curve in plot.training] == [60, 60, 60]
    lowest = min(point.mean for curve in plot.training for point in curve)
    assert plot.y.low <= lowest < min(point.mean for curve in plot.curves for point in curve)
    assert drawings_of({"loss": plot})["loss"].count('class="curve training') == 3
    assert figure(comparison, "curves_accuracy", CurvePlot).training == ()
    many = make_study(tmp_path / "many", [Head(f"h{i}") for i in range(7)], seeds=[0], num_documents=40)
    assert figure(compared(many), "curves_loss", CurvePlot).training == ()


def test_curve_of_the_metric_is_shown_if_it_was_logged(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", HEADS[:2], seeds=[0, 1], num_documents=100)
    assert "curves_f1" not in figures_of(compared(study, "f1"))
    for path in study.glob("*/metrics.jsonl"):
        path.write_text(path.read_text().replace("val/accuracy", "val/f1"))
    names = figures_of(compared(study, "f1"))
    assert "curves_f1" in names and "curves_accuracy" not in names
    assert "curves_f1" not in figures_of(compared(study))


def test_seeds_are_open_circles_above_their_interval(comparison: Comparison) -> None:
    drawings = drawings_of({"accuracy": figure(comparison, "accuracy", IntervalPlot)})
    for drawing in drawings.values():
        assert drawing.count('class="seed"') == 9
        first = drawing.split("<g")[1]
        (line,) = [float(part.split('"')[1]) for part in first.split("y1=")[1:2]]
        seeds = [
            float(part.split('"')[1]) for part in first.split('class="seed"')[1:] for part in part.split("cy=")[1:2]
        ]
        assert seeds == [line - 9] * 3


def test_largest_class_is_a_line_if_it_is_near(comparison: Comparison) -> None:
    assert figure(comparison, "accuracy", IntervalPlot).reference is None
    near = comparison.groups[-1].primary.low - 0.01
    plot = figure(replace(comparison, baseline={"test/accuracy": near}), "accuracy", IntervalPlot)
    assert plot.reference == (pytest.approx(100 * near), "largest class") and plot.x.low < 100 * near
    assert "largest class" in drawings_of({"accuracy": plot})["accuracy"]


def test_cost_planes_show_the_spread_over_seeds_from_zero(comparison: Comparison, tmp_path: Path) -> None:
    plane = figure(comparison, "cost_train_seconds", CostPlane)
    assert plane.x.low == 0 and not plane.x.log and plane.title == "Accuracy % and training time"
    for point, group in zip(plane.points, comparison.groups, strict=True):
        low, high = point.costs
        assert low < point.cost < high == pytest.approx(1.02 * low)
        assert point.values == (100 * min(group.primary.values), 100 * max(group.primary.values))
    assert {figure.title for figure in figures_of(comparison).values() if isinstance(figure, CostPlane)} == {
        f"Accuracy % and {cost}"
        for cost in ("training time", "head parameters", "peak memory", "latency per document, median")
    }
    alone = make_study(tmp_path / "alone", HEADS[:1], seeds=[0, 1], num_documents=40)
    assert not [name for name in figures_of(compared(alone)) if name.startswith("cost_")]
