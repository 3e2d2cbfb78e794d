"""Groups that differ only in the training size and the head give curves, and the page names their crossings."""

import json
from pathlib import Path

import pytest
import yaml
from support.studies import Head, make_study

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.detail_tables import crossing_sentences, detail_tables_of
from imdbcls.comparison.views.figure_types import CurvePlot
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.json_document import document_of
from imdbcls.comparison.views.paper_figures import paper_figures
from imdbcls.comparison.views.svg_figures import drawings_of

SKILLS = {"mean": {100: 0.5, 1_000: 0.6, 10_000: 0.7}, "lstm": {100: -1.0, 1_000: 0.9, 10_000: 2.2}}


def make_sizes(folder: Path) -> Path:
    """Write a study in which `mean` is better with 100 training documents and `lstm` with more."""
    for size in (100, 1_000, 10_000):
        heads = [Head(name, skill=skills[size], seed_spread=0.02) for name, skills in SKILLS.items()]
        part = make_study(folder / f"{size}", heads, seeds=(0, 1, 2), num_documents=500, split_hash=f"split {size}")
        for run in part.glob("*-s*"):
            result = json.loads((run / "result.json").read_text())
            hashes = {key: f"{result[key]} {size}" for key in ("config_hash", "group_hash")}
            (run / "result.json").write_text(json.dumps(result | hashes | {"train_documents": size}))
            config = yaml.safe_load((run / "config.yaml").read_text())
            config["data"]["train_limit"] = size
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            run.rename(folder / f"{run.name}-{size}")
    return folder


def compared(study: Path) -> Comparison:
    return compare_study(read_study(study), METRICS["accuracy"], 0.003)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sizes(tmp_path_factory.mktemp("sizes") / "study")


def test_curves_have_a_point_for_each_group_and_name_their_crossing(study: Path) -> None:
    comparison = compared(study)
    groups = {group.name: group for group in comparison.groups}
    assert [curve.name for curve in comparison.size_curves] == ["lstm", "mean"], "sorted by the largest size"
    for curve in comparison.size_curves:
        assert [point.train_documents for point in curve.points] == [100, 1_000, 10_000]
        for point in curve.points:
            assert point.value is groups[point.group].primary and groups[point.group].head == curve.name
    (crossing,) = comparison.crossings
    assert (crossing.before, crossing.after, crossing.sizes) == ("mean", "lstm", (100, 1_000))
    lstm, mean = ({p.train_documents: p.value.mean for p in curve.points} for curve in comparison.size_curves)
    assert crossing.leads == pytest.approx((mean[100] - lstm[100], lstm[1_000] - mean[1_000]))
    (sentence,) = crossing_sentences(comparison)
    assert sentence.startswith(
        f"With 100 training documents, mean is ahead of lstm by {100 * crossing.leads[0]:.2f} poi"
    )
    assert "With 1,000, lstm is ahead by" in sentence and sentence.endswith("significant.")
    document = document_of(comparison)
    assert document["size_curves"][0]["points"][2]["train_documents"] == 10_000
    assert document["crossings"][0]["significant"] == crossing.significant


def test_figure_and_table_show_the_intervals_at_each_size(study: Path) -> None:
    comparison = compared(study)
    plot = figures_of(comparison)["sizes"]
    assert isinstance(plot, CurvePlot) and plot.x.log and plot.x.ticks() == [100, 1_000, 10_000]
    first = comparison.size_curves[0].points[0].value
    point = plot.curves[0][0]
    assert (point.low, point.mean, point.high) == (100 * first.low, 100 * first.mean, 100 * first.high)
    drawing = drawings_of({"sizes": plot})["sizes"]
    assert "mean, 10k training documents: " in drawing and drawing.count('class="interval thin"') == 6
    assert set(paper_figures({"sizes": plot})) == {"sizes.pdf", "sizes.png"}
    (table,) = [table for table in detail_tables_of(comparison) if table.key == "sizes"]
    assert table.header == ["head", "100", "1,000", "10,000"]
    assert table.rows[0][1] == f"{100 * first.mean:.2f} ({100 * first.low:.2f} to {100 * first.high:.2f})"


@pytest.mark.parametrize("change", ["another setting", "no size", "one size"])
def test_other_studies_have_no_curves(change: str, tmp_path: Path) -> None:
    study = make_sizes(tmp_path / "study")
    if change == "another setting":
        for file in study.glob("mean-*-100/config.yaml"):
            file.write_text(file.read_text() + "epochs: 9\n")
    elif change == "no size":
        file = study / "mean-s0-100/result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"train_documents": None}))
    else:
        for folder in [*study.glob("*-100"), *study.glob("*-10000")]:
            folder.rename(tmp_path / folder.name)
    comparison = compared(study)
    assert comparison.size_curves == comparison.crossings == () and "sizes" not in figures_of(comparison)
