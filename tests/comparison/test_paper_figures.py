"""Figures for papers: PDF and PNG with the width of a column, and the same order and values as on the page."""

import struct
import sys
import time
from pathlib import Path

import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.compare import main
from imdbcls.comparison.metrics import METRICS, Metric
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.figure_types import CostPlane, IntervalPlot
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.paper_figures import drawn, paper_figures
from imdbcls.comparison.views.svg_figures import drawings_of

NAMES = (
    *("accuracy", "differences", "curves_accuracy", "curves_loss", "reliability", "length"),
    *("cost_head_parameters", "cost_latency_ms_p50", "cost_peak_memory_mb", "cost_train_seconds"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(
        tmp_path_factory.mktemp("papers") / "heads", (HEADS[0], *HEADS[2:4]), seeds=[0, 1], num_documents=200
    )


@pytest.fixture(scope="module")
def comparison(study: Path) -> Comparison:
    return compare_study(read_study(study), METRICS["accuracy"], 0.003)


def test_figures_option_writes_pdf_and_png(study: Path, tmp_path: Path) -> None:
    assert main([str(study), "--output", str(tmp_path / "without")]) == 0
    assert {path.suffix for path in (tmp_path / "without" / "comparison_figures").iterdir()} == {".svg"}
    assert main([str(study), "--figures", "--output", str(tmp_path)]) == 0
    for name in NAMES:
        pdf = (tmp_path / "comparison_figures" / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf, (
            "fonts must be embedded TrueType"
        )
        assert b"CreationDate" not in pdf and b"/MediaBox [ 0 0 237.6 " in pdf, "width must be 3.3 inches"
        png = (tmp_path / "comparison_figures" / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png[1:4] == b"PNG" and width == 990 and 200 < height < 2000, "resolution must be 300 dpi"
    assert not list((tmp_path / "comparison_figures").glob("*.tmp"))


def test_files_are_byte_identical(comparison: Comparison) -> None:
    figures = {name: figure for name, figure in figures_of(comparison).items() if name in ("accuracy", "curves_loss")}
    first = paper_figures(figures)
    time.sleep(1.1)  # a date in a file would have changed
    assert paper_figures(figures) == first


def test_order_and_values_equal_those_of_the_page(comparison: Comparison) -> None:
    figures = figures_of(comparison)
    names = [group.name for group in comparison.groups]
    pairs = [f"{pair.a} - {pair.b}" for pair in comparison.pairs]
    for name, rows in (("accuracy", names), ("differences", pairs)):
        plot = figures[name]
        assert isinstance(plot, IntervalPlot) and [row.label for row in plot.rows] == rows
        (axes,) = drawn(plot).axes
        bottom, top = axes.get_ylim()
        assert [label.get_text() for label in axes.get_yticklabels()] == rows and top < bottom
        lines = [tuple(line.get_xdata()) for line in axes.lines]
        for row in plot.rows:
            assert (row.low, row.high) in lines and (row.value,) in lines
    plane = figures["cost_head_parameters"]
    assert isinstance(plane, CostPlane) and plane.x.log
    canvas = drawn(plane)
    (axes,) = canvas.axes
    assert axes.get_xscale() == "log" and [text.get_text() for text in canvas.texts] == [p.name for p in plane.points]
    drawn_at = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines[1:]}
    for point in plane.points:
        assert ((point.cost,), (point.value,)) in drawn_at
        assert (point.costs, (point.value, point.value)) in drawn_at, "the line spans all seeds"
        assert ((point.cost, point.cost), point.values) in drawn_at


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_axes_name_metric_unit_direction_and_intervals(metric: Metric, study: Path) -> None:
    comparison = compare_study(read_study(study), metric, None)
    figures = figures_of(comparison)
    is_loss = metric.name in ("loss", "brier")
    value = f"test {metric.title}{' (lower is better)' if is_loss else ' %'}"
    plane, ranking, differences = figures["cost_train_seconds"], figures["accuracy"], figures["differences"]
    assert isinstance(plane, CostPlane) and plane.y.title == value
    assert isinstance(ranking, IntervalPlot) and ranking.x.title == value
    assert isinstance(differences, IntervalPlot)
    assert differences.x.title == f"difference in {metric.title}{'' if is_loss else ', points'}"
    side = "below" if is_loss else "above"
    assert differences.notes == ("simultaneous 95 % intervals", f"{side} 0: the first group is better")
    for row, pair in zip(differences.rows, comparison.pairs, strict=True):
        scale = 1 if is_loss else 100
        assert (row.low, row.high) == (scale * pair.simultaneous_low, scale * pair.simultaneous_high)
    (axes,) = drawn(differences).axes
    assert axes.get_xlabel() == "\n".join([differences.x.title, *differences.notes])
    drawings = drawings_of({"differences": differences})
    for drawing in drawings.values():
        assert all(note in drawing for note in differences.notes)
    front = [(point.cost, metric.sign * point.value) for point in plane.points if point.name in plane.front]
    others = [(point.cost, metric.sign * point.value) for point in plane.points if point.name not in plane.front]
    assert front and all(any(c <= cost and v >= value for c, v in front) for cost, value in others)


def test_unusual_names_are_drawn_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = [Head(r"a $\frac{1}{$ _^{ 头"), Head("b" * 60, skill=0.2)]
    study = read_study(make_study(tmp_path / "x", heads, seeds=[0], num_documents=60))
    figures = figures_of(compare_study(study, METRICS["accuracy"], 0.003))
    plots = {name: figure for name, figure in figures.items() if name in ("differences", "cost_train_seconds")}
    assert len(paper_figures(plots)) == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "boxes for characters that the font DejaVu Sans does not contain" in lines[0]


def test_without_matplotlib_nothing_is_written(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(study), "--figures", "--output", str(tmp_path / "out")]) == 2
    assert "imdbcls: --figures needs matplotlib: pip install matplotlib." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
