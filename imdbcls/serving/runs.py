"""The runs that the server answers with, and their answers for a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imdbcls.api import FinishedRun, load_run
from imdbcls.errors import UserError
from imdbcls.serving.schema import RunInfo


@dataclass(frozen=True)
class Answer:
    """The answer of one run for one text. The numbers of tokens include special tokens."""

    label: str
    probabilities: Mapping[str, float]
    tokens: int
    tokens_read: int
    truncated: bool


@dataclass(frozen=True)
class ServedRuns:
    """One or two finished runs with the same classes, by name. Only one thread may use their models."""

    by_name: Mapping[str, FinishedRun]

    @property
    def label_names(self) -> tuple[str, ...]:
        return next(iter(self.by_name.values())).label_names

    def about(self) -> list[RunInfo]:
        return [about(name, run) for name, run in self.by_name.items()]

    def classify(self, texts: Sequence[str]) -> list[dict[str, Answer]]:
        """Return the answers for each text, by name of the run."""
        by_run = {name: answers_of(run, texts) for name, run in self.by_name.items()}
        return [{name: answers[row] for name, answers in by_run.items()} for row in range(len(texts))]


def load_runs(folders: Sequence[Path], plugins: Sequence[str], device: str | None) -> ServedRuns:
    """Open finished runs without loading their models.

    Raises UserError if a folder is not a finished run, appears twice, or has other classes than the first.
    """
    runs = [load_run(folder, plugins=plugins, device=device) for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"{folders[0]} was given twice: give two different runs, or one.")
    for run in runs[1:]:
        if set(run.label_names) != set(runs[0].label_names):
            raise UserError(
                f"{run.folder} has the classes {', '.join(run.label_names)}, but {runs[0].folder} has "
                f"{', '.join(runs[0].label_names)}: give two runs with the same classes."
            )
    names = [f"{run.result['study']}/{run.result['name']}" for run in runs]
    if len(set(names)) < len(names):  # the same study in two folders
        names = [str(run.folder) for run in runs]
    return ServedRuns(dict(zip(names, runs, strict=True)))


def about(name: str, run: FinishedRun) -> RunInfo:
    return RunInfo(
        run=name,
        head=run.config.head.name,
        backbone=run.config.backbone.name,
        max_length=run.config.max_length,
        temperature=run.temperature,
        test_accuracy=run.result["test/accuracy"],
    )


def answers_of(run: FinishedRun, texts: Sequence[str]) -> list[Answer]:
    predictions = run.predict(texts)
    assert predictions.tokens is not None
    read = predictions.tokens - run.cut_tokens(predictions)
    rows = zip(
        predictions.names,
        predictions.known_probabilities.tolist(),
        predictions.tokens.tolist(),
        read.tolist(),
        strict=True,
    )
    return [
        Answer(label, dict(zip(run.label_names, probabilities, strict=True)), tokens, tokens_read, tokens_read < tokens)
        for label, probabilities, tokens, tokens_read in rows
    ]
