"""Confusion matrices and the scores of each class equal the results of scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from support.studies import HEADS, make_study

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.detail_tables import confusion_matrices, detail_tables_of
from imdbcls.comparison.views.json_document import document_of


def test_matrix_sums_seeds_and_scores_are_means_over_seeds(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path / "heads", HEADS[2:5], seeds=[0, 1, 2], num_documents=300, num_classes=4))
    comparison = compare_study(study, METRICS["f1"], 0.003)
    for group in study.groups:
        (summary,) = [each for each in comparison.groups if each.name == group.name]
        predicted = [run.predictions.predicted for run in group.runs]
        labels = np.arange(4)
        expected = sum(confusion_matrix(group.labels_N, each, labels=labels) for each in predicted)
        assert np.array_equal(summary.confusion_matrix, expected)
        scores = np.mean([precision_recall_fscore_support(group.labels_N, each)[:3] for each in predicted], axis=0)
        found = [(score.precision, score.recall, score.f1) for score in summary.class_scores]
        assert np.transpose(found) == pytest.approx(scores)
        assert np.mean(scores[2]) == pytest.approx(summary.metrics["test/f1"].mean), "test/f1 must be macro F1"
        assert sum(score.num_documents for score in summary.class_scores) == 300
    matrices = confusion_matrices(comparison)
    assert [matrix.group for matrix in matrices] == [group.name for group in comparison.groups]
    name, cells = matrices[0].rows[2]
    assert name == "class 2" and [text for text, _ in cells] == [
        str(n) for n in comparison.groups[0].confusion_matrix[2]
    ]
    assert [shade for _, shade in cells].index(8) == 2, "most documents of class 2 are predicted as class 2"
    tables = {table.key: table for table in detail_tables_of(comparison)}
    assert len(tables["scores"].rows) == 4 * 3 and "confusions" not in tables
    document = document_of(comparison)["groups"][0]
    assert document["confusion_matrix"] == comparison.groups[0].confusion_matrix
    assert document["class_scores"][1].keys() == {"name", "num_documents", "precision", "recall", "f1"}


def test_with_many_classes_the_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", HEADS[3:5], seeds=[0, 1], num_documents=900, num_classes=15)
    comparison = compare_study(read_study(study), METRICS["accuracy"], 0.003)
    assert confusion_matrices(comparison) == []
    (table,) = [table for table in detail_tables_of(comparison) if table.key == "confusions"]
    counts = [int(row[3]) for row in table.rows if row[0] == comparison.groups[0].name]
    assert len(counts) == 10 and counts == sorted(counts, reverse=True)
    assert all(label != predicted for _, label, predicted, *_ in table.rows)


def test_class_that_is_never_predicted_has_precision_zero(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", HEADS[:1], seeds=[0], num_documents=40)
    found = read_study(study)
    predictions = found.groups[0].runs[0].predictions
    object.__setattr__(predictions, "predicted", np.zeros(40, dtype=np.int64))
    (group,) = compare_study(found, METRICS["accuracy"], 0.003).groups
    assert group.class_scores[1].precision == group.class_scores[1].f1 == 0.0
    assert [row[1] for row in group.confusion_matrix] == [0, 0]
