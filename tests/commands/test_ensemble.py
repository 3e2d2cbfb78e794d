"""Several runs: `predict`, `evaluate` and `load_ensemble` average their calibrated probabilities."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import api
from support.runs import Launch
from support.variants import change_result, variant

import imdbcls
from imdbcls import evaluate
from imdbcls.construction import build_corpus
from imdbcls.data.sample import read_sample
from imdbcls.models.metrics import metrics_of
from imdbcls.predict import parse, predict

pytestmark = pytest.mark.slow

TEXTS = ["A quiet, patient film.", "Two hours, lost.", "Not bad."]


@pytest.fixture(scope="module")
def runs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three runs with different weights and temperatures."""
    study = tmp_path_factory.mktemp("ensemble")
    return [variant(finished, study / f"run{number}", number) for number in range(3)]


@pytest.mark.parametrize("options", [[], ["--uncalibrated"]])
def test_predict_averages_the_probabilities(
    options: list[str], runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    predict(parse([*map(str, runs), *options, "--", *TEXTS]), io.StringIO(), out)
    alone = [imdbcls.load_run(run).predict(TEXTS, calibrated=not options).probabilities for run in runs]
    assert np.abs(alone[0] - alone[2]).max() > 0.005
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(answer["probabilities"].values()) for answer in answers] == np.mean(alone, axis=0).tolist()
    for answer in answers:
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
    assert "Averaging 3 runs takes 3 times as long as one run and keeps 3 models in memory." in capsys.readouterr().err
    ensemble = imdbcls.load_ensemble(runs)
    assert ensemble.label_names == ("negative", "positive")
    assert ensemble.predict(TEXTS, calibrated=not options).probabilities.tolist() == np.mean(alone, axis=0).tolist()


def test_progress_of_an_ensemble_covers_all_runs(runs: list[Path]) -> None:
    shown: list[tuple[int, int]] = []
    imdbcls.load_ensemble(runs[:2]).predict_with_counts(TEXTS, lambda done, total: shown.append((done, total)))
    assert shown == [(3, 6), (6, 6)]


def test_evaluate_measures_the_mean(runs: list[Path], launch: Launch, tmp_path: Path) -> None:
    done = launch(tmp_path, "evaluate", *map(str, runs[:2]))
    metrics = json.loads(done.stdout)
    first, second = (imdbcls.load_run(run) for run in runs[:2])
    recorded = first.predictions("test")  # calibrated, because the first run has temperature 1
    corpus = build_corpus(first.config.data)
    mean_NC = (recorded.probabilities + second.predict(corpus.test.texts).probabilities) / 2
    assert metrics == pytest.approx(
        {f"test/{key}": value for key, value in metrics_of(recorded.labels, mean_NC).items()}
    )
    assert "Evaluating 2 runs takes 2 times as long as one run. One model at a time is in memory." in done.stderr
    accuracies = re.findall(r"run(\d): test accuracy (\d+\.\d+)%", done.stderr)
    assert accuracies[0] == ("0", f"{100 * first.result['test/accuracy']:.2f}") and accuracies[1][0] == "1"
    other_documents = change_result(runs[1], tmp_path / "other", split_hash="0" * 16)
    refused = launch(tmp_path, "evaluate", str(runs[0]), str(other_documents), expect=2)
    assert "were trained on different documents" in refused.stderr


def test_runs_that_do_not_fit_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other_classes = change_result(runs[0], tmp_path / "classes", label_names=["bad", "good"])
    with pytest.raises(imdbcls.UserError, match=r"has the classes negative, positive, but .* the classes bad, good"):
        imdbcls.load_ensemble([runs[0], other_classes])
    with pytest.raises(imdbcls.UserError, match="run1 is given twice"):
        imdbcls.load_ensemble([*runs, runs[1]])
    with pytest.raises(imdbcls.UserError, match="needs at least two runs"):
        imdbcls.load_ensemble(runs[:1])
    with pytest.raises(imdbcls.UserError, match="expects a list of run folders"):
        imdbcls.load_ensemble(str(runs[0]))
    with pytest.raises(imdbcls.UserError, match=r"run9 is not a folder, but .* contains runs"):
        predict(parse([str(runs[0]), str(runs[0].parent / "run9"), "A film."]), io.StringIO(), io.StringIO())


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `a.csv` (columns title, body, label and mark), and runs on different columns of it."""
    folder, source = tmp_path_factory.mktemp("tables"), read_sample().train
    with (folder / "a.csv").open("w", newline="") as file:
        rows = zip(source.texts[:80], source.labels[:80].tolist(), strict=True)
        csv.writer(file).writerows(
            [("title", "body", "label", "mark"), *((text[:40], text[40:200], label, 1 - label) for text, label in rows)]
        )
    small = [choice for choice in api.TINY if not choice.startswith("data")]
    for study, *choices in (
        ("title", "data.text_column=title"),
        ("body", "data.text_column=body"),
        ("mark", "data.text_column=title", "data.label_column=mark"),
        ("space", "data.text_column=[title,body]"),
        ("slash", "data.text_column=[title,body]", "data.text_separator=/"),
    ):
        given = ("data=files", f"data.train={folder / 'a.csv'}", f"runs_dir={folder}", f"study={study}", *choices)
        imdbcls.run(imdbcls.compose(*small, *given))
    return folder


def scores(folder: Path, studies: tuple[str, str], *options: str) -> str:
    """Return the JSON of `evaluate --file a.csv` without the names of the runs."""
    runs = [next(folder.glob(f"{study}/cls-*")) for study in studies]
    arguments = [str(runs[0]), str(runs[1]), "--file", str(folder / "a.csv"), "--skip-empty", *options]
    out = io.StringIO()
    evaluate.evaluate_file(runs, evaluate.argument_parser().parse_intermixed_args(arguments), out)
    return json.dumps({key: value for key, value in json.loads(out.getvalue()).items() if key != "runs"})


@pytest.mark.parametrize(
    ("studies", "message"),
    (
        (("title", "body"), r"^Without --text-column, .* reads the column title of .*a\.csv, but .* reads body\. "),
        (("title", "space"), r"the column title of .*a\.csv, but .* reads title \+ body\. Pass --text-column "),
        (("slash", "space"), r"\(data\.text_separator\): '/' and ' '\. "),
        (("title", "mark"), r"^Without --label-column, .* the column label of .*, but .* reads mark\. Pass "),
    ),
)
def test_runs_on_different_columns_need_an_option_for_a_file(
    studies: tuple[str, str], message: str, tables: Path
) -> None:
    """The columns of the first run were read for all runs, so the order of the runs changed the scores."""
    with pytest.raises(imdbcls.UserError, match=message):
        scores(tables, studies)
    given = ("--text-column", "body", "--label-column", "label")
    assert scores(tables, studies, *given) == scores(tables, studies[::-1], *given)
    if "mark" not in studies:
        runs = [str(next(tables.glob(f"{study}/cls-*"))) for study in studies]
        with pytest.raises(imdbcls.UserError, match=message):
            predict(parse([*runs, "--file", str(tables / "a.csv")]), io.StringIO(), io.StringIO())
        (tables / "a.txt").write_text("A quiet, patient film.\n")
        predict(parse([*runs, "--file", str(tables / "a.txt")]), io.StringIO(), io.StringIO())
