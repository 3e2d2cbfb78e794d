"""Files of predictions from other tools: what is read, what is refused with one sentence, and what the views show."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.predictions_files import predictions_frame
from support.studies import HEADS, make_study

from imdbcls.compare import main
from imdbcls.comparison import prediction_rows
from imdbcls.comparison.predictions_file import read_predictions_file
from imdbcls.comparison.study import read_study
from imdbcls.errors import UserError

LINES = ["system,seed,id,label,prediction", *(f"{s},0,{i},pos,pos" for s in ("a", "b") for i in ("x", "y"))]


def compared(path: Path, *options: str) -> dict[str, Any]:
    assert main([str(path), *options]) == 0
    return json.loads((path.with_name(f"{path.stem}_comparison") / "comparison.json").read_text())


def problem(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_predictions_file(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.startswith(str(path))
    return sentence.removeprefix(str(path))


def changed(line: int, text: str) -> str:
    return "\n".join([*LINES[: line - 1], text, *LINES[line:]])


# What is read


def test_file_gives_the_same_results_as_run_folders(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", HEADS[:2], seeds=[0, 1, 2], num_documents=300, documents_of_a_film=3)
    frames = []
    for group in read_study(folder).groups:
        for run in group.runs:
            found = run.predictions
            names = np.array(found.label_names)
            frame = pd.DataFrame({"system": group.name, "seed": run.seed, "id": found.ids, "cluster": found.clusters})
            frame["label"], frame["prediction"] = names[found.true_labels], names[found.predicted]
            for i, name in enumerate(found.label_names):
                frame[f"probability_{name}"] = found.known_probabilities[:, i]
            frames.append(frame)
    pd.concat(frames).sample(frac=1, random_state=0).to_csv(tmp_path / "rows.csv", index=False)
    of_file = compared(tmp_path / "rows.csv", "--metric", "loss")
    assert main([str(folder), "--metric", "loss"]) == 0
    of_folder = json.loads((folder / "comparison.json").read_text())
    assert [group["metrics"] for group in of_file["groups"]] == [group["metrics"] for group in of_folder["groups"]]
    assert [group["num_clusters"] for group in of_file["groups"]] == [100, 100]
    for key in ("p_holm", "difference", "low", "outcome", "verdict", "p_permutation", "mcnemar"):
        assert of_file["pairs"][0][key] == of_folder["pairs"][0][key], key
    assert of_file["wrong_for_all"] == of_folder["wrong_for_all"]
    assert of_file["label_errors"] == of_folder["label_errors"]
    assert of_file["file"] == "rows.csv" and of_folder["file"] is None


@pytest.mark.parametrize("form", ["semicolon", "tab", "tsv", "bom", "windows", "quoted", "parquet", "category"])
def test_formats_give_the_same_results(form: str, tmp_path: Path) -> None:
    frame = predictions_frame()
    frame.to_csv(tmp_path / "plain.csv", index=False)
    path = tmp_path / f"form.{form if form in ('tsv', 'parquet') else 'csv'}"
    match form:
        case "semicolon":
            frame.to_csv(path, index=False, sep=";")
        case "tab" | "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "bom":
            frame.to_csv(path, index=False, encoding="utf-8-sig")
        case "windows":
            frame.to_csv(path, index=False, lineterminator="\r\n")
        case "quoted":
            frame.to_csv(path, index=False, quoting=1)
        case "parquet":
            frame.to_parquet(path)
        case "category":
            path = tmp_path / "form.parquet"
            frame.astype({"system": "category", "label": "category"}).to_parquet(path)
    expected, found = compared(tmp_path / "plain.csv"), compared(path)
    assert found["groups"] == expected["groups"] and found["pairs"] == expected["pairs"]


def test_numeric_classes_have_one_name_and_numeric_order(tmp_path: Path) -> None:
    frame = predictions_frame(classes=("2", "10", "1"))
    frame["label"] = frame["label"].astype(float)  # pandas stores integers as floats if the column has a missing value
    frame["prediction"] = frame["prediction"].astype(int)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "b.parquet")
    a, b = read_predictions_file(tmp_path / "a.csv"), read_predictions_file(tmp_path / "b.parquet")
    assert a.label_names == b.label_names == ("1", "2", "10")
    for study in (a, b):
        found = study.groups[1].runs[0].predictions
        assert found.correct.mean() > 0.5
        assert (found.known_probabilities.argmax(axis=1) == found.predicted).all()


def test_class_names_with_dots_are_read_from_parquet(tmp_path: Path) -> None:
    predictions_frame(classes=("sci.space", "talk.politics")).to_parquet(tmp_path / "a.parquet")
    assert read_predictions_file(tmp_path / "a.parquet").label_names == ("sci.space", "talk.politics")


def test_boolean_labels_are_read(tmp_path: Path) -> None:
    frame = predictions_frame(classes=("false", "true"))
    frame["label"], frame["prediction"] = frame["label"] == "true", frame["prediction"] == "true"
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.parquet", "a.csv"):
        study = read_predictions_file(tmp_path / name)
        assert study.label_names == ("false", "true") and study.groups[1].correct_SN.mean() > 0.5


def test_unknown_columns_are_ignored_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = predictions_frame()
    frame.to_csv(tmp_path / "index.csv")
    frame[frame["id"] != "d0000"].to_parquet(tmp_path / "index.parquet")
    for name in ("index.csv", "index.parquet"):  # their first or last column is the index of the data frame
        read_predictions_file(tmp_path / name)
        assert capsys.readouterr().err == ""
    frame.assign(text="a, b", score=1).to_csv(tmp_path / "a.csv", index=False)
    compared(tmp_path / "a.csv")
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "columns 'text', 'score' will be ignored" in error


def test_prediction_may_differ_from_the_largest_probability(tmp_path: Path) -> None:
    frame = predictions_frame()
    frame["prediction"] = np.where(frame["probability_pos"] > 0.8, "pos", "neg")
    frame.to_csv(tmp_path / "a.csv", index=False)
    expected = ((frame["probability_pos"] > 0.5) & (frame["probability_pos"] <= 0.8)).sum()
    found = compared(tmp_path / "a.csv")
    assert any(f"In {expected:,} of 1,200 rows, the prediction is not the class" in note for note in found["notes"])
    accuracy = (frame["prediction"] == frame["label"]).groupby([frame["system"], frame["seed"]]).mean()
    (bert,) = (group for group in found["groups"] if group["name"] == "bert")
    assert bert["metrics"]["test/accuracy"]["values"] == pytest.approx(accuracy["bert"].tolist())


# What is shown


def test_without_seeds_only_documents_are_tested_and_the_verdict_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions_frame(seeds=[0]).drop(columns="seed").to_csv(tmp_path / "a.csv", index=False)
    found = compared(tmp_path / "a.csv")
    (pair,) = found["pairs"]
    assert pair["outcome"] == "here" and not pair["seeds_varied"] and pair["p_value"] == pair["p_permutation"]
    assert "a group has one seed" in pair["verdict"] and "in these runs" in pair["verdict"]
    assert "another seed may give another result" in found["headline"]
    assert found["notes"] == [
        "svm and bert have one seed, so their intervals cover the variation over documents but not over seeds."
    ]
    assert "sd over seeds" not in capsys.readouterr().out


def test_views_leave_out_what_the_file_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions_frame(probabilities=False).drop(columns="cluster").to_csv(tmp_path / "a.csv", index=False)
    found = compared(tmp_path / "a.csv", "--full")
    folder = tmp_path / "a_comparison"
    page, text = (folder / "comparison.html").read_text(), capsys.readouterr().out
    for shown in (page.partition("<main>")[2].partition('<section id="method"')[0], text):
        for absent in ("calibrated", "cost?", "tokens", "AUROC", "nsemble", "label error", "validation", "NaN", "None"):
            assert absent not in shown, absent
    for section in ("curves", "costs", "calibration"):
        assert f'id="{section}"' not in page and f'href="#{section}"' not in page
    assert {path.stem for path in (folder / "comparison_figures").iterdir()} == {
        *("accuracy", "accuracy_narrow", "differences", "differences_narrow")
    }
    for group in found["groups"]:
        assert group["calibration"] is None and group["reliability"] == [] and group["ensemble"] == {}
        assert [name for name, each in group["metrics"].items() if each["mean"] is not None] == [
            *("test/accuracy", "test/f1")
        ]
    assert found["label_errors"] == {"count": None, "documents": []}
    assert set(found["baseline"]) == {"test/accuracy", "test/f1"}


@pytest.mark.parametrize("metric", ["auroc", "brier", "loss"])
def test_metric_without_probabilities_is_refused(
    metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions_frame(probabilities=False).to_csv(tmp_path / "a.csv", index=False)
    assert main([str(tmp_path / "a.csv"), "--metric", metric]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        f"The metric {metric} needs probabilities, but a.csv has none for at least one run. Use accuracy or f1" in error
    )
    assert not (tmp_path / "a_comparison").exists()
    assert main([str(tmp_path / "a.csv"), "--metric", "f1"]) == 0


def test_options_for_files(tmp_path: Path) -> None:
    predictions_frame(systems=["only"]).to_csv(tmp_path / "a.csv", index=False)
    assert main([str(tmp_path / "a.csv"), "--output", str(tmp_path / "here"), "--figures"]) == 0
    assert "only is the only group" in (tmp_path / "here" / "comparison.md").read_text()
    assert (tmp_path / "here" / "comparison_figures" / "accuracy.pdf").exists()


def test_comparison_of_a_file_is_logged_to_the_default_project(tmp_path: Path) -> None:
    predictions_frame(num_documents=40).to_csv(tmp_path / "a.csv", index=False)
    compared(tmp_path / "a.csv", "--wandb", "--wandb-mode", "offline")
    (run,) = (tmp_path / "a_comparison" / "wandb").glob("offline-run-*-comparison-a-*")
    assert list((run / "files" / "media").rglob("ranking*.table.json"))


def test_hostile_names_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", "a|b*c_d`e`", "\\input{x}"]
    predictions_frame(systems=names, classes=("<b>", "=1+1"), num_documents=60).to_csv(tmp_path / "a.csv", index=False)
    compared(tmp_path / "a.csv")
    folder = tmp_path / "a_comparison"
    assert "<script>alert" not in (folder / "comparison.html").read_text()
    assert "<script>" not in (folder / "comparison.md").read_text()
    assert not re.search(r"(^|,)=cmd", (folder / "comparison.csv").read_text(), re.MULTILINE)


# What is refused


def test_rows_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for line, row, sentence in (
        (3, "a,0,y,,pos", ", line 3: 'label' has no value; every row must have one."),
        (3, "a,0,y,pos,NaN", ", line 3: 'prediction' has no value; every row must have one."),
        (3, ",0,y,pos,pos", ", line 3: 'system' has no value; every row must have one."),
        (
            3,
            "a,,y,pos,pos",
            ", line 3: 'seed' has no value; it must be a whole number, 0 or larger, of at most 18 digits.",
        ),
        (3, "a,first,y,pos,pos", ", line 3: 'seed' is 'first'; it must be a whole number, 0 or larger, of at most 18"),
        (3, f"a,{'1' * 5000},y,pos,pos", ", line 3: 'seed' is '1111"),
        (3, f"a,0,{'1' * 5000},pos,pos", ", line 3: 'id' has 5,000 characters; at most 200 are allowed."),
        (3, f"a,0,y,{'1' * 5000},pos", ", line 3: 'label' has 5,000 characters; at most 100 are allowed."),
        (3, "a,0,y\0,pos,pos", ", line 3: 'id' is 'y\\x00', which contains a control character; remove it."),
        (3, "a\x1b[31m,0,y,pos,pos", ", line 3: 'system' is 'a\\x1b[31m', which contains a control character;"),
        (3, "a,0,y,pos", ", line 3: expected 5 fields as in the header, found 4."),
        (3, 'a,0,"y,pos,pos', "line 3: this row cannot be read as CSV"),
        (
            3,
            "a,0,x,pos,pos",
            ", line 3: system 'a', seed 0, and id 'x' already occur in line 2; only one row per",
        ),
        (
            4,
            "b,0,x,neg,pos",
            ", line 4: the label of id 'x' is 'neg', but it is 'pos' in line 2; a document must have one label.",
        ),
        (5, "b,0,z,pos,pos", ": system 'a', seed 0, lacks 1 of 3 documents, for example 'z', which is in line 5."),
    ):
        assert sentence in problem(path, changed(line, row)), row
    assert "data." not in problem(path, changed(3, 'a,0,"y,pos,pos'))  # compare has no such settings


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    for text, sentence in (
        ("", " is empty"),
        (LINES[0], " has columns but no rows"),
        (
            "a,b\n1,2\n",
            " has no column 'system' and no column 'id' and no column 'label' and no column 'prediction'; it",
        ),
        ("\n".join(LINES).replace("prediction", "predicted"), "has no column 'prediction'; it has 'system', 'seed'"),
        ("\n".join(f"{line},pos" for line in LINES).replace("n,pos", "n,label", 1), "column 'label' occurs 2 times"),
        ("\n".join(LINES), " has only one class, 'pos'; a comparison needs at least two."),
        (
            "\n".join([LINES[0], "a,0,x,pos,neg", "b,0,x,pos,pos"]),
            " has only one document; a comparison needs at least",
        ),
        (
            "\n".join(line.replace("pos,pos", "pos,1") for line in LINES),
            "no prediction is one of the labels. The labels",
        ),
        ("system,seed\xe9".encode("latin-1"), "is not UTF-8"),
        ("\n".join(LINES).encode("utf-16"), "is not UTF-8"),
        (b"x" * (2**22 + 1), ", line 1: the line has more than 4,194,304 bytes."),
    ):
        assert sentence in problem(path, text), text[:80]
    no_seed = "\n".join([*LINES, "a,0,x,pos,pos"]).replace(",0,", ",").replace("seed,", "")
    assert "If the rows come from different seeds, add a column 'seed'" in problem(path, no_seed)
    monkeypatch.setattr(prediction_rows, "MAX_ROWS", 3)
    assert "has more than 3 rows" in problem(path, "\n".join(LINES))
    predictions_frame().to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has more than 3 rows"):
        read_predictions_file(tmp_path / "a.parquet")


def test_probabilities_that_are_refused(tmp_path: Path) -> None:
    header = "system,id,label,prediction,probability_neg,probability_pos"
    path = tmp_path / "a.csv"
    for row, sentence in (
        ("a,x,neg,neg,0.5,0.6", ", line 2: the probabilities sum to 1.1 instead of 1."),
        ("a,x,neg,neg,-0.5,1.5", ", line 2: 'probability_neg' is '-0.5'; it must be a number from 0 to 1, such as"),
        ("a,x,neg,neg,,1", ", line 2: 'probability_neg' has no value; it must be a number from 0 to 1"),
        ("a,x,neg,neg,nan,1", ", line 2: 'probability_neg' is 'nan'; it must"),
        ('a,x,neg,neg,"0,5","0,5"', ", line 2: 'probability_neg' is '0,5'; it must be a number from 0 to 1, such as"),
        (f"a,x,neg,neg,{'1' * 5000},0", ", line 2: 'probability_neg' is '1111"),
        ("a,x,neg,other,0.5,0.5", ", line 2: 'prediction' is 'other', but the file has no column 'probability_other';"),
    ):
        assert sentence in problem(path, f"{header}\n{row}\n")
    assert "names the same class" in problem(
        path, f"{header},probability_pos\x20\x20\na,x,neg,neg,1,0,0\n".replace("probability_pos  ", "probability_ pos")
    )
    rounded = f"{header}\na,x,neg,neg,0.667,0.334\na,y,pos,pos,0,1\n"
    path.write_text(rounded)
    assert read_predictions_file(path).groups[0].has_probabilities


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = {"system": ["a"] * 3, "id": ["x", "y", "z"], "label": ["p", "n", "p"], "prediction": ["p", "n", "n"]}
    for changes, sentence in (
        ({"label": ["p", None, "p"]}, ", row 2: 'label' has no value; every row must have one."),
        (
            {"label": pa.array([[1], [2], [3]])},
            ": column 'label' has the type list<element: int64>; it must contain strings",
        ),
        (
            {"label": pa.array([b"p", b"n", b"p"])},
            ": column 'label' has the type binary; it must contain strings, numbers",
        ),
        ({"probability_p": ["1", "0", "1"]}, ": column 'probability_p' has the type string; it must contain numbers."),
        (
            {"probability_p": [1.0, None, 1.0], "probability_n": [0.0, 1.0, 0.0]},
            ", row 2: 'probability_p' has no value; it must be a number",
        ),
        ({"seed": [0.5, 0.5, 0.5]}, ", row 1: 'seed' is '0.5'; it must be a whole number"),
        ({"label": [float("nan")] * 3}, ", row 1: 'label' has no value; every row must have one."),
    ):
        pq.write_table(pa.table(rows | changes), path)
        assert sentence in problem(path, path.read_bytes()), changes
    pq.write_table(pa.table(rows), path)
    complete = path.read_bytes()
    for content in (b"", b"PAR1", complete[:-20], complete[:40] + b"\0" * 20 + complete[60:], os.urandom(500)):
        problem(path, content)


def test_parquet_bombs_are_refused(tmp_path: Path) -> None:
    """The strings or the pages of these small files expand to gigabytes."""
    path = tmp_path / "a.parquet"
    number = 200_000
    columns = {name: pa.array(["a"] * number) for name in ("system", "label", "prediction")}
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(number, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({**columns, "id": long}), path, compression="zstd")
    assert path.stat().st_size < 10**6
    assert "'id' has 1,048,576 characters" in problem(path, path.read_bytes())
    pq.write_table(
        pa.table({**columns, "id": pa.array(["x" * 2000] * number)}),
        path,
        compression="zstd",
        use_dictionary=False,
        data_page_size=2**30,
        write_batch_size=number,
    )
    assert path.stat().st_size < 10**6
    assert "expands to" in problem(path, path.read_bytes())


def test_paths_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, sentence in (
        ("missing.csv", "does not exist"),
        ("missing", "is neither a folder nor a file"),
        ("a.txt", "is not a file of predictions. Allowed formats are .csv, .tsv, .parquet"),
        ("folder.csv", "contains no finished run"),
        ("pipe.csv", "not a regular file"),
        ("n\0l.csv", "does not exist"),
    ):
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, name


def test_link_to_a_file_is_followed(tmp_path: Path) -> None:
    predictions_frame(num_documents=30).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    assert compared(tmp_path / "link.csv")["study"] == "link"
