"""Average the probabilities of several finished runs, such as the seeds of one head."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.data.columns import TEXTS, joined_name, spelled
from imdbcls.data.table_paths import LINES
from imdbcls.data.unlabeled import columns_for, separator_in
from imdbcls.errors import UserError

if TYPE_CHECKING:
    from imdbcls.data.token_counts import TokenCounts
    from imdbcls.finished_run import FinishedRun
    from imdbcls.runs.predictions import Predictions


@dataclass(frozen=True)
class Ensemble:
    """Several finished runs with the same classes. Their probabilities are averaged with equal weights.

    Raise UserError for fewer than two runs, for a repeated run, and for runs with different classes. Also raise
    UserError if some runs classify single texts and others classify pairs of texts.
    """

    runs: "tuple[FinishedRun, ...]"

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise UserError("An ensemble needs at least two runs.")
        require_different(self.runs)
        require_same_classes(self.runs)
        require_same_kind(self.runs)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.runs[0].label_names

    @property
    def cost(self) -> str:
        """The cost of an ensemble, compared with a single run."""
        number = len(self.runs)
        return f"Averaging {number} runs takes {number} times as long as one run and keeps {number} models in memory."

    def predictions(self, split: str = "test") -> "Predictions":
        """Calibrate the recorded predictions of each run for a split, and return their mean.

        Raise UserError as `FinishedRun.predictions` does, and if the runs were trained on different documents.
        """
        require_same_documents(self.runs)
        return averaged([run.calibrated(run.predictions(split)) for run in self.runs])

    def predict(self, texts: Iterable[str | tuple[str, str]], *, calibrated: bool = True) -> "Predictions":
        """Classify documents as `FinishedRun.predict` does, but with the mean of the runs' probabilities.

        With `calibrated`, the probabilities of each run are calibrated before they are averaged. The predicted class
        has the highest mean. The first call loads all models.
        """
        return self.predict_with_counts(texts, calibrated=calibrated)[0]

    def predict_with_counts(
        self,
        texts: Iterable[str | tuple[str, str]],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        calibrated: bool = True,
    ) -> "tuple[Predictions, TokenCounts]":
        """Classify documents as `predict` does. Also return the token counts from the first run's tokenizer.

        After each batch, `on_progress` gets the number of documents done and the total, over all runs.
        """
        texts = list(texts) if isinstance(texts, Iterator) else texts  # every run reads the texts
        found, counts = [], []
        for index, run in enumerate(self.runs):
            shown = None if on_progress is None else part_of_progress(on_progress, index, len(self.runs))
            predictions, counts_of_run = run.predict_with_counts(texts, shown, calibrated=calibrated)
            found.append(predictions)
            counts.append(counts_of_run)
        return averaged(found), counts[0]


def runs_of(model: "FinishedRun | Ensemble") -> "tuple[FinishedRun, ...]":
    """Return the runs of an ensemble, or the run itself."""
    return model.runs if isinstance(model, Ensemble) else (model,)


def require_different(runs: "Sequence[FinishedRun]") -> None:
    """Raise UserError if a run is given twice."""
    folders = [run.folder.resolve() for run in runs]
    for index, run in enumerate(runs):
        if folders[index] in folders[:index]:
            raise UserError(f"{run.folder} is given twice: pass different runs.")


def require_same_classes(runs: "Sequence[FinishedRun]") -> None:
    """Raise UserError if the runs do not have the same classes in the same order."""
    first, *others = runs
    for run in others:
        if run.label_names != first.label_names:
            raise UserError(
                f"{first.folder} has the classes {', '.join(first.label_names)}, but {run.folder} has the classes "
                f"{', '.join(run.label_names)}: pass runs with the same classes in the same order."
            )


def require_same_kind(runs: "Sequence[FinishedRun]") -> None:
    """Raise UserError if some runs classify single texts and others pairs of texts."""
    first, *others = runs
    for run in others:
        if run.config.data.reads_pairs != first.config.data.reads_pairs:
            raise UserError(
                f"One of {first.folder} and {run.folder} classifies single texts, and the other classifies pairs of "
                "texts: pass runs with the same kind of documents."
            )


def require_same_documents(runs: "Sequence[FinishedRun]") -> None:
    """Raise UserError if the runs do not have the same training, validation and test documents."""
    first, *others = runs
    for run in others:
        if run.result.get("split_hash") != first.result.get("split_hash"):
            raise UserError(
                f"{first.folder} and {run.folder} were trained on different documents (their split hashes differ), so "
                "they have no common test split. Pass runs with the same documents."
            )


def require_same_columns(runs: "Sequence[FinishedRun]", file: Path, options: Mapping[str, Any]) -> None:
    """Raise UserError if the runs would read different texts or labels from the rows of `file`.

    `options` maps the command's options for columns, such as `text_column`, to their values. By default (None), the
    columns have the same names as in the data of a run.
    """
    if file.suffix.lower() in LINES:
        return  # the file has no columns
    first, *others = runs
    source = first.config.data.source.arguments
    read = {key: columns_for(source, key, options[key]) for key in (*TEXTS, "label_column") if key in options}
    joins = any(len(columns) > 1 for columns in read.values())
    for run in others:
        other_source = run.config.data.source.arguments
        for key, columns in read.items():
            others_columns = columns_for(other_source, key, options[key])
            if columns != others_columns:
                option = spelled(key, "option")
                raise UserError(
                    f"Without {option}, {first.folder} reads the column {joined_name(columns)} of {file}, but "
                    f"{run.folder} reads {joined_name(others_columns)}. Pass {option} to choose the column for all "
                    "runs."
                )
        separators = separator_in(source), separator_in(other_source)
        if joins and separators[0] != separators[1]:
            raise UserError(
                f"{first.folder} and {run.folder} join columns with different separators (data.text_separator): "
                f"{separators[0]!r} and {separators[1]!r}. Pass runs with the same separator, or join the texts in one "
                "column of the file."
            )


def part_of_progress(on_progress: Callable[[int, int], None], index: int, number: int) -> Callable[[int, int], None]:
    """Return a progress callback for part `index` of `number` equal parts."""
    return lambda done, total: on_progress(index * total + done, number * total)


def averaged(found: "Sequence[Predictions]") -> "Predictions":
    """Return the mean of predictions for the same documents. The other fields are copied from the first predictions."""
    import numpy as np

    mean_NC = np.mean([predictions.known_probabilities for predictions in found], axis=0)
    return replace(found[0], probabilities=mean_NC, predicted=mean_NC.argmax(axis=1))


def leading_folders(names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Divide the arguments of a command into the run folders at the start, and the other arguments.

    Raise UserError if the first other argument is probably a misspelt run folder: a path in a folder with runs.
    """
    number = next((index for index, name in enumerate(names) if not is_folder(name)), len(names))
    folders, rest = [Path(name) for name in names[:number]], list(names[number:])
    if rest and "/" in rest[0] and not any(map(str.isspace, rest[0])):
        parent = os.path.dirname(rest[0])
        if is_folder(parent) and any(Path(parent).glob("*/config.yaml")):
            raise UserError(f"{rest[0]} is not a folder, but {parent} contains runs. Correct the name of the run.")
    return folders, rest


def is_folder(name: str) -> bool:
    try:
        return name != "" and Path(name).is_dir()
    except (OSError, ValueError):  # a text can be too long for a path, or contain a NUL
        return False
