"""`data.part_column` reaches the predictions, the result, the run's last lines and the comparison."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support.runs import TINY, Launch

from imdbcls.data.documents import Corpus
from imdbcls.data.files import read_files
from imdbcls.data.splits import make_corpus
from imdbcls.errors import UserError
from imdbcls.runs.read_predictions import read_predictions


def write(path: Path, num_parts: int) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "kind"])
        for row in range(160):
            rows.writerow([f"{'good' if row % 2 else 'bad'} film {row}", row % 2, f"kind {row % 4 % num_parts}"])


def test_accuracy_of_each_part_is_reported(tmp_path: Path, launch: Launch) -> None:
    write(tmp_path / "films.csv", num_parts=2)
    options = ("data=files", "data.train=films.csv", "data.part_column=kind", "tracker=none", "study=parts", "epochs=1")
    tiny = [each for each in TINY if not each.startswith(("data=", "epochs="))]
    messages = launch(tmp_path, "train", *tiny, *options).stderr
    (path,) = tmp_path.glob("runs/parts/*/result.json")
    predictions = read_predictions(path.parent / "predictions" / "test.parquet")
    assert predictions.parts is not None and set(predictions.parts) == {"kind 0", "kind 1"}
    found = json.loads(path.read_text())["test/parts"]
    for name, part in found.items():
        correct = predictions.correct[predictions.parts == name]
        assert part == {"accuracy": pytest.approx(correct.mean()), "documents": len(correct)}
    shown = ", ".join(f"{name} {part['accuracy']:.2%} of {part['documents']}" for name, part in found.items())
    assert f"  accuracy by part: {shown}\n" in messages
    launch(tmp_path, "compare", "runs/parts")
    (group,) = json.loads((tmp_path / "runs/parts/comparison.json").read_text())["groups"]
    assert [(part["part"], part["documents"]) for part in group["parts"]["part"]] == [
        (name, part["documents"]) for name, part in found.items()
    ]


def test_only_the_test_split_may_not_have_too_many_parts(tmp_path: Path) -> None:
    """A row without a value is in the part `(none)`."""
    many, few = tmp_path / "many.csv", tmp_path / "few.csv"
    many.write_text("text,label,kind\n" + "".join(f"film {row},{row % 2},{row}\n" for row in range(60)))
    kinds = ["" if row % 3 else "a" for row in range(9)]
    few.write_text("text,label,kind\n" + "".join(f"show {row},{row % 2},{kind}\n" for row, kind in enumerate(kinds)))
    settings = {"validation_fraction": 0.2, "test_fraction": 0.5, "split_seed": 0}
    limits = dict.fromkeys(("train_limit", "validation_limit", "test_limit"))

    def corpus_of(test: Path | None) -> Corpus:
        test_file = None if test is None else str(test)
        source = read_files(str(many), None, test_file, "text", "label", None, None, part_column="kind")
        return make_corpus(source, **settings, **limits)

    with pytest.raises(
        UserError, match=r"data\.part_column has 30 different values in the test split; at most 20 are allowed"
    ):
        corpus_of(None)
    assert corpus_of(few).test.parts == [kind or "(none)" for kind in kinds]


def test_rows_of_parts_follow_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    write(path, num_parts=4)
    documents = read_files(str(path), None, None, "text", "label", None, None, part_column="kind").train
    rows = np.array([7, 3, 158])
    taken = documents.take(rows)
    assert taken.parts == [f"kind {row % 4}" for row in rows]
