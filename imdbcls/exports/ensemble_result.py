"""Compute the result of an ensemble from the recorded predictions of its runs, without classifying documents again."""

from collections.abc import Sequence
from typing import Any

from imdbcls.comparison.run_files import number
from imdbcls.ensemble import Ensemble
from imdbcls.finished_run import FinishedRun
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.encoder_source import same_splits_of

OF_THE_DATA = ("split_hash", "train_documents", "test_documents", "token_counts", "label_names")
SUMS = ("parameters", "head_parameters", "train_seconds")  # values that are summed over the runs


def ensemble_result(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return the values of an ensemble, under their names in `result.json`.

    The test metrics are computed from the mean of the recorded, calibrated probabilities. All runs have the same
    documents, so the counts of documents are taken from the first run. Parameters and training time are summed over the
    runs. A sum is left out if any run did not record the value.
    """
    recorded = Ensemble(tuple(runs)).predictions("test")
    metrics = metrics_of(recorded.true_labels, recorded.known_probabilities)
    found = {key: runs[0].result[key] for key in OF_THE_DATA if key in runs[0].result}
    for key in SUMS:
        values = [number(run.result.get(key)) for run in runs]
        found |= {} if None in values else {key: sum(value for value in values if value is not None)}
    return {
        **found,
        **{f"test/{name}": value for name, value in metrics.items() if name != "ece"},
        "test/ece_calibrated": metrics["ece"],
        "watched_test": any(run.result.get("watched_test") is True for run in runs),
        "encoder_source": {"same_splits": same_splits_of(run.result for run in runs)},
    }
