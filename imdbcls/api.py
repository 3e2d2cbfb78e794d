"""The same from Python as from the command line; `imdbcls` itself offers what is public here."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.config.checking import require_valid
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.finished import FinishedModel, load_finished, open_finished
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import SPLITS, path_of_predictions, problem_of_predictions
from imdbcls.runtime.process import prepare_process
from imdbcls.runtime.signals import restored_handlers

if TYPE_CHECKING:
    from imdbcls.data.token_counts import TokenCounts


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end: its record, and its model to classify further texts with.

    `result` is the run's `result.json`, with its keys: `result["test/accuracy"]`, `result["train_seconds"]`, …
    """

    folder: Path
    config: Config
    result: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.folder)!r}, test accuracy {self.result['test/accuracy']:.2%})"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes, in the order of their indices."""
        return tuple(self.result["label_names"])

    def predictions(self, split: str = "test") -> Predictions:
        """Read the recorded predictions of a split, `test` or `validation`, in the split's order."""
        from imdbcls.runs.read_predictions import BadPredictions, read_predictions

        if split not in SPLITS:
            raise UserError(f"split={split!r} is not one of {', '.join(SPLITS)}.")
        path = path_of_predictions(self.folder, split)
        if (problem := problem_of_predictions(self.folder, self.result, split)) is not None:
            raise UserError(f"{self.folder}: {problem}. The run's training command writes its predictions again.")
        try:
            found = read_predictions(path)
        except BadPredictions as error:
            raise UserError(f"{self.folder}: {error} ({path.name}).") from error
        if found.probabilities.shape[1] != len(self.label_names):
            raise UserError(f"{path} and result.json do not have the same number of classes.")
        return replace(found, label_names=self.label_names)

    def predict(self, texts: Iterable[str]) -> Predictions:
        """Classify texts (a list, a column of a data frame, …) by the run's best weights; their ids are `0`, `1`, …

        The model is rebuilt from the run folder at the first call and kept. A text's probabilities depend on its own
        words only, except for the rounding of its batch. Raises UserError for anything but texts.
        """
        return self.predict_with_counts(texts)[0]

    def predict_with_counts(self, texts: Iterable[str]) -> "tuple[Predictions, TokenCounts]":
        """Classify texts as `predict` does. Also return the counts of their tokens, and of those that are not read."""
        import numpy as np

        from imdbcls.data.documents import Documents
        from imdbcls.printable import is_unicode

        single = isinstance(texts, str)
        texts = list(texts)
        if single or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError('predict takes a list of texts, none of them empty: predict(["A quiet, patient film."]).')
        broken = next((row for row, text in enumerate(texts) if not is_unicode(text)), None)
        if broken is not None:
            raise UserError(f"predict: text {broken:,}, counted from 0, contains an unpaired surrogate.")
        documents = Documents([str(row) for row in range(len(texts))], texts, np.zeros(len(texts), dtype=np.int64))
        with tempfile.TemporaryDirectory() as passing:  # the tokens of such texts do not stay in the cache
            predictions, tokens = self._model.score(documents, cache_dir=passing)
        counts = self._model.pipeline.count(tokens, self._model.backbone.tokenizer)
        return replace(predictions, labels=None), counts

    @cached_property
    def _model(self) -> FinishedModel:
        prepare_process()
        return load_finished(self.folder, self.config, self.label_names)


def compose(*choices: str) -> Config:
    """The configuration that `python -m imdbcls.train` would run with these choices, `compose("head=lstm", "lr=3e-5")`.

    `python -m imdbcls.train --help` lists the choices. An experiment's sweep is left out: give its head or seed
    yourself. Raises UserError with every mistake, each in a sentence.
    """
    from imdbcls.config import overrides  # Hydra is not needed to load a run

    if not all(isinstance(choice, str) for choice in choices):
        raise UserError('compose takes texts, one for each choice: compose("head=lstm", "lr=3e-5").')
    return overrides.compose(choices)


def run(config: Config) -> FinishedRun:
    """Train and score one configuration, or take its result where it is done already; what was begun is continued.

    The same as the command, in this process: the record in `config.folder`, W&B as `tracker` says. Messages go to the
    logger `imdbcls`, and to stderr if no logging is configured.
    Raises UserError for what the user can put right, and KeyboardInterrupt where a signal stopped the run (its state is
    saved, and the same call continues it).
    """
    from imdbcls.train import train

    if not isinstance(config, Config):
        raise UserError('run takes a config, such as imdbcls.compose("head=lstm").')
    config = require_valid(config.plain())
    try:
        with restored_handlers():  # this process goes on
            train(config)
    except SystemExit as stopped:
        raise KeyboardInterrupt(f"{config.folder} was stopped; the same call continues it") from stopped
    return load_run(config.folder, plugins=config.plugins)


def load_run(folder: str | Path, *, plugins: Sequence[str] = (), device: str | None = None) -> FinishedRun:
    """Open a finished run's folder, `runs/<study>/<name>`. Its documents are never read.

    `plugins` names the packages of your own that its head may come from, `device` replaces the run's own. Raises
    UserError where the folder holds no finished run, or one that names code which is not allowed.
    """
    config, result = open_finished(Path(folder), device, plugins)
    return FinishedRun(Path(folder), config, result)
