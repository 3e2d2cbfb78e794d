"""`data.part_column` reaches the predictions, the result, the run's last lines and the comparison."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from support.runs import TINY, Launch

from imdbcls.data.files import read_files
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
    assert f"  test accuracy by part: {shown}\n" in messages
    launch(tmp_path, "compare", "runs/parts")
    (group,) = json.loads((tmp_path / "runs/parts/comparison.json").read_text())["groups"]
    assert [(part["part"], part["documents"]) for part in group["parts"]["part"]] == [
        (name, part["documents"]) for name, part in found.items()
    ]


def test_too_many_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text("text,label\n" + "".join(f"film {row},{row % 2}\n" for row in range(60)))
    with pytest.raises(
        UserError, match=r"films\.csv: 'text' \(data\.part_column\) has 60 different values; at most 20"
    ):
        read_files(str(path), None, None, "text", "label", None, None, part_column="text")


def test_rows_of_parts_follow_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    write(path, num_parts=4)
    documents = read_files(str(path), None, None, "text", "label", None, None, part_column="kind").train
    rows = np.array([7, 3, 158])
    taken = documents.take(rows)
    assert taken.parts == [f"kind {row % 4}" for row in rows]
