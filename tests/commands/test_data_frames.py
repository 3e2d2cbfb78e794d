"""Runs, studies, comparisons and predictions as data frames, as figures and as the HTML of a notebook."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.api import TINY
from support.studies import HEADS, make_study

import imdbcls

FEW = ("data.train_limit=32", "trainer.log_every=1", "epochs=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> imdbcls.FinishedRun:
    folder = tmp_path_factory.mktemp("runs")
    return imdbcls.run(imdbcls.compose(*TINY, *FEW, "head=mean", f"runs_dir={folder}"))


def test_predictions_as_a_data_frame(run: imdbcls.FinishedRun) -> None:
    predictions = run.predictions("test")
    frame = predictions.to_pandas()
    assert len(frame) == len(predictions) == 24
    columns = ["id", "label", "prediction", "probability_negative", "probability_positive", "tokens", "cluster", "part"]
    assert list(frame) == columns
    assert (frame["label"] == frame["prediction"]).mean() == run.result["test/accuracy"]
    np.testing.assert_array_equal(frame[["probability_negative", "probability_positive"]], predictions.probabilities)
    new = run.predict(["A fine film.", "Dull."]).to_pandas()
    assert list(new) == ["id", "prediction", "probability_negative", "probability_positive", "tokens"]


def test_metrics_of_a_run(run: imdbcls.FinishedRun) -> None:
    metrics = run.metrics
    assert metrics["step"].tolist() == [1, 2, 3, 4] and metrics["epoch"].tolist() == [0.5, 1, 1.5, 2]
    assert metrics["val/loss"].notna().tolist() == [False, True, False, True] and metrics["train/loss"].notna().all()
    best = metrics.set_index("epoch").loc[run.result["best_epoch"], "val/accuracy"]
    assert best == run.result["val/accuracy"]


def test_damaged_or_missing_metrics(run: imdbcls.FinishedRun, tmp_path: Path) -> None:
    other = replace(run, folder=tmp_path)
    with pytest.raises(imdbcls.UserError, match=r"metrics\.jsonl is missing"):
        _ = other.metrics
    for text in ("{", "[1]", "\udcff"):
        (tmp_path / "metrics.jsonl").write_text(text, errors="surrogateescape")
        with pytest.raises(imdbcls.UserError, match="is damaged"):
            _ = other.metrics


def test_plot_of_a_run(run: imdbcls.FinishedRun, tmp_path: Path) -> None:
    from matplotlib import pyplot

    losses, scores = run.plot().axes
    training, validation, best = losses.lines
    np.testing.assert_allclose(training.get_ydata(), run.metrics["train/loss"])
    np.testing.assert_allclose(validation.get_xdata(), [1, 2])
    assert best.get_xdata()[0] == run.result["best_epoch"] and scores.get_ylabel() == "validation accuracy"
    assert pyplot.get_fignums() == [], "a notebook would show an open figure a second time"
    run.plot().savefig(tmp_path / "curves.pdf")


def test_a_plot_without_epochs_is_refused(run: imdbcls.FinishedRun, tmp_path: Path) -> None:
    without = {key: value for key, value in run.result.items() if key != "best_epoch"}
    with pytest.raises(imdbcls.UserError, match=r"its result\.json has no best_epoch"):
        replace(run, result=without).plot()
    for text in ('{"step": 1, "train/loss": 0.5}\n', ""):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(imdbcls.UserError, match=r"its metrics\.jsonl has no key 'epoch'"):
            replace(run, folder=tmp_path).plot()


def test_runs_and_studies_in_a_notebook(run: imdbcls.FinishedRun) -> None:
    study = imdbcls.load_study(run.folder.parent)
    assert len(study) == 1 and [each.folder for each in study] == [run.folder] and study.unfinished == ()
    (row,) = study.to_pandas().to_dict("records")
    assert row["test/accuracy"] == run.result["test/accuracy"] and row["lr"] == run.config.lr and row["seed"] == 0
    assert run.folder.name in study._repr_html_() and f"{run.result['test/accuracy']:.2%}" in run._repr_html_()
    hostile = replace(run, folder=Path("<script>"), result={**run.result, "backbone": "<img>"})
    assert "<script>" not in hostile._repr_html_() and "<img>" not in hostile._repr_html_()


def test_a_notebook_shows_the_epochs_of_a_soup(run: imdbcls.FinishedRun) -> None:
    for soup, text in (
        ([3, 1], "(mean of epochs 3, 1)"),
        ([3], "(best epoch 3; no mean of epochs is better)"),
        ("x", "(best epoch 3)"),
    ):
        html = replace(run, result={**run.result, "best_epoch": 3, "soup_epochs": soup})._repr_html_()
        assert text in html


def test_load_study_skips_unfinished_runs(run: imdbcls.FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(imdbcls.UserError, match="expects a study folder with finished runs"):
        imdbcls.load_study(tmp_path)
    unfinished = run.folder.parent / "cls-s0-unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    study = imdbcls.load_study(run.folder.parent)
    assert len(study) == 1 and len(study.unfinished) == 1 and "does not contain a finished run" in study.unfinished[0]


def test_comparison_as_data_frames(tmp_path: Path) -> None:
    found = imdbcls.compare_runs(make_study(tmp_path / "heads", HEADS[:3], seeds=[0, 1], num_documents=80))
    groups, pairs = found.to_pandas(), found.pairs_to_pandas()
    assert len(found) == len(groups) == len(pairs) == 3
    assert groups["group"].tolist() == [group.name for group in found.groups] and groups.index.tolist() == [1, 1, 3]
    assert groups["mean"].is_monotonic_decreasing and "test/f1" in groups and "train_seconds" in groups
    assert pairs["p_holm"].tolist() == [pair.p_holm for pair in found.pairs]
    assert set(pairs["outcome"]) <= {"better", "equivalent", "undecided"}
    assert json.loads(pairs.to_json(orient="records"))
    shown = replace(found, study="<b>", groups=(replace(found.groups[0], name="<script>"), *found.groups[1:]))
    html = shown._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>&lt;b&gt;</b>" in html
    assert "color" not in html and f"{found.groups[1].primary.mean:.2%}" in html
    assert "1 group by accuracy" in replace(found, groups=found.groups[:1], pairs=())._repr_html_()
