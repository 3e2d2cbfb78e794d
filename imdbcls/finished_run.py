"""A finished run as a Python object: its result, its predictions, and its model to classify new documents."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.finished import FinishedModel, load_finished, load_plain
from imdbcls.run_summary import metrics_frame, plot_curves, run_html
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import SPLITS, path_of_predictions, problem_of_predictions
from imdbcls.runtime.console import log_if_unconfigured
from imdbcls.runtime.process import prepare_process

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from imdbcls.data.documents import Documents
    from imdbcls.data.token_counts import TokenCounts
    from imdbcls.models.scores import Scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its result, its predictions, and its model to classify new documents.

    `result` is the content of the run's `result.json`: `result["test/accuracy"]`, `result["train_seconds"]`, …
    """

    folder: Path
    config: Config
    result: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.folder)!r}, test accuracy {self.result['test/accuracy']:.2%})"

    def _repr_html_(self) -> str:
        return run_html(self.folder, self.result)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return tuple(self.result["label_names"])

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The metrics that were logged during training, with one row per logged step.

        The columns are the keys in `metrics.jsonl`: `step`, `epoch`, `train/loss`, `val/loss`, … A value that was not
        logged at a step is NaN. Raise UserError if `metrics.jsonl` is missing or damaged.
        """
        return metrics_frame(self.folder)

    def plot(self) -> "Figure":
        """Draw the losses and the validation metric by epoch, as a matplotlib figure.

        A notebook shows the figure at the end of a cell; `run.plot().savefig("curves.pdf")` saves it. Raise UserError
        if matplotlib is not installed.
        """
        return plot_curves(self.metrics, self.result)

    def predictions(self, split: str = "test") -> Predictions:
        """Return the recorded predictions for a split (`test` or `validation`), in the order of its documents.

        Raise UserError for another split, and if the predictions file is missing or damaged.
        """
        from imdbcls.runs.read_predictions import BadPredictionsError, read_predictions

        if split not in SPLITS:
            raise UserError(f"split={split!r} is not one of {', '.join(SPLITS)}.")
        path = path_of_predictions(self.folder, split)
        if (problem := problem_of_predictions(self.folder, self.result, split)) is not None:
            advice = "Run the training command again to rewrite the predictions."
            if not (self.folder / "checkpoints" / "last").is_dir():
                advice += " The run is then trained from the beginning, because checkpoints/last is missing."
            raise UserError(f"{self.folder}: {problem}. {advice}")
        try:
            found = read_predictions(path)
        except BadPredictionsError as error:
            raise UserError(f"{self.folder} ({path.name}): {error}.") from error
        if found.known_probabilities.shape[1] != len(self.label_names):
            raise UserError(
                f"{path} and result.json do not have the same number of classes. Restore both files from a copy, or "
                "train the run again."
            )
        return replace(found, label_names=self.label_names)

    @cached_property
    def temperature(self) -> float:
        """The number that divides the logits to calibrate the probabilities, fitted on the validation split.

        If an earlier version did not record the temperature, fit it now on the run's validation predictions. Raise
        UserError if these predictions are missing or damaged, or if the recorded temperature is not valid.
        """
        from imdbcls.models.temperature import fit_temperature, recorded_temperature

        recorded = recorded_temperature(self.result)
        if recorded is None:
            validation = self.predictions("validation")
            return fit_temperature(validation.true_labels, validation.known_probabilities).value
        return recorded

    def predict(self, texts: Iterable[str | tuple[str, str]], *, calibrated: bool = True) -> Predictions:
        """Classify documents (a list of strings, a column of a data frame, …) with the run's best weights.

        If the run was trained on pairs of texts, each document is a tuple of two strings.

        With `calibrated`, the logits are divided by the run's `temperature`. This changes the probabilities but not the
        predicted classes.

        The ids of the predictions are `0`, `1` and so on. The first call loads the model from the run folder; later
        calls reuse the model. The probabilities of a document do not depend on the other documents, except for rounding
        differences between batches.

        Raise UserError if `texts` is empty, is a table, or contains an empty text or a value of the wrong type.
        """
        return self.predict_with_counts(texts, calibrated=calibrated)[0]

    def predict_with_counts(
        self,
        texts: Iterable[str | tuple[str, str]],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        calibrated: bool = True,
    ) -> "tuple[Predictions, TokenCounts]":
        """Classify documents as `predict` does. Also return counts of their tokens.

        After each batch, `on_progress` gets the number of documents done and the total.
        """
        import numpy as np

        from imdbcls.data.documents import Documents
        from imdbcls.printable import half_a_character, is_unicode

        num_texts = 2 if self.config.data.reads_pairs else 1
        if is_table(texts):  # iterating over it gives the names of its columns
            column = 'frame["text"]' if num_texts == 1 else 'zip(frame["premise"], frame["hypothesis"])'
            raise UserError(
                f"predict was given a table ({type(texts).__name__}). Pass only its texts, such as predict({column})."
            )
        single = isinstance(texts, str)
        given = list(texts)
        rows = [(text,) if isinstance(text, str) else tuple(text) if is_pair(text) else () for text in given]
        if single or not rows or not all(len(row) == num_texts and all(map(str.strip, row)) for row in rows):
            example = '["A quiet, patient film."]' if num_texts == 1 else '[("A man sleeps.", "Nobody is awake.")]'
            what = "strings" if num_texts == 1 else "pairs of strings"
            raise UserError(f"predict expects a list of non-empty {what}, such as predict({example}).")
        invalid = next((number for number, row in enumerate(rows) if not all(map(is_unicode, row))), None)
        if invalid is not None:
            raise UserError(
                f"predict: the string at index {invalid:,} contains {half_a_character(''.join(rows[invalid]))}."
            )
        first, *second = ([row[position] for row in rows] for position in range(num_texts))
        documents = Documents(
            [str(row) for row in range(len(rows))],
            first,
            np.zeros(len(rows), dtype=np.int64),
            pairs=next(iter(second), None),
        )
        predictions, tokens = self._model.predict(documents, on_progress, cache_tokens=False)
        counts = self._model.pipeline.count(tokens, self._model.backbone.tokenizer)
        return replace(self.calibrated(predictions) if calibrated else predictions, labels=None), counts

    def predict_documents(
        self,
        documents: "Documents",
        on_progress: Callable[[int, int], None] | None = None,
        *,
        calibrated: bool = True,
        cache_tokens: bool = True,
    ) -> Predictions:
        """Classify labelled documents, such as a split of a corpus.

        The tokens are cached for later calls, unless `cache_tokens` is false.
        """
        predictions, _ = self._model.predict(documents, on_progress, cache_tokens=cache_tokens)
        return self.calibrated(predictions) if calibrated else predictions

    def evaluate(self, file: str | Path, **options: Any) -> "Scores":
        """Score the run on a file of labelled documents. `imdbcls.data.labelled.read_labelled` describes the `options`.

        For example, `run.evaluate("new.csv", label_column="topic")`. The probabilities are not calibrated, so the
        scores are comparable with the metrics in `result`. Notes on the file, such as the number of skipped rows, are
        logged as in `imdbcls.run`. Raise UserError if the file cannot be read or has labels that are not classes of the
        run.
        """
        from imdbcls.data.labelled import read_labelled
        from imdbcls.models.scores import scores_of

        log_if_unconfigured()
        documents, notes = read_labelled(file, self.config.data.source.arguments, self.label_names, **options)
        for note in notes:
            logger.info(note)
        return scores_of(self.predict_documents(documents, calibrated=False, cache_tokens=False))

    def calibrated(self, predictions: Predictions) -> Predictions:
        """Calibrate the probabilities in uncalibrated predictions of this run, such as the recorded predictions."""
        from imdbcls.models.temperature import apply_temperature

        return replace(predictions, probabilities=apply_temperature(predictions.known_probabilities, self.temperature))

    def cut_tokens(self, predictions: Predictions) -> "NDArray[np.int64]":
        """Return the number of tokens of each document that the model did not read, because the document is too long.

        `predictions` must come from `predict`.
        """
        assert predictions.tokens is not None
        return self._model.cut_tokens(predictions.tokens)

    @cached_property
    def plain_model(self) -> FinishedModel:
        """A copy of the model for gradients with respect to its input: float32, frozen, without compiled kernels."""
        prepare_process()
        loaded = load_plain(self.folder, self.config, self.label_names)
        loaded.model.requires_grad_(False)
        return loaded

    @property
    def environment(self) -> dict[str, str]:
        """The hardware and software that can change the last digits of predictions. The model is loaded if needed."""
        from imdbcls.models.environment import environment_of

        return environment_of(self._model.hardware, None, self._model.model)

    @cached_property
    def _model(self) -> FinishedModel:
        prepare_process()
        return load_finished(self.folder, self.config, self.label_names)


def is_table(value: object) -> bool:
    """Return whether a value is a data frame, a dict or another table of named columns."""
    return isinstance(value, Mapping) or hasattr(type(value), "columns")


def is_pair(value: object) -> bool:
    """Return whether a value is a tuple or list of two strings."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)
