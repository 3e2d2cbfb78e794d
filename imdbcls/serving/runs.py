"""Open the runs and ensembles that the server offers, and classify texts with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imdbcls.api import load_ensemble, load_run
from imdbcls.ensemble import Ensemble, require_different, require_same_classes, runs_of
from imdbcls.errors import UserError
from imdbcls.finished_run import FinishedRun
from imdbcls.serving.schema import EnsembleInfo, RunInfo


@dataclass(frozen=True)
class Answer:
    """The answer of one run or ensemble for one text.

    `tokens` and `tokens_read` count special tokens too. For an ensemble, they are the counts of its first run.
    """

    label: str
    probabilities: Mapping[str, float]
    tokens: int
    tokens_read: int
    truncated: bool


@dataclass(frozen=True)
class ServedRuns:
    """One or two named runs or ensembles with the same classes. Only one thread may use them."""

    by_name: Mapping[str, FinishedRun | Ensemble]

    @property
    def label_names(self) -> tuple[str, ...]:
        return next(iter(self.by_name.values())).label_names

    def about(self) -> list[RunInfo | EnsembleInfo]:
        return [about(name, model) for name, model in self.by_name.items()]

    def classify(self, texts: Sequence[str]) -> list[dict[str, Answer]]:
        """Return, for each text, the answers keyed by the name of the run or ensemble."""
        by_run = {name: answers_of(model, texts) for name, model in self.by_name.items()}
        return [{name: answers[row] for name, answers in by_run.items()} for row in range(len(texts))]


def load_models(
    runs: Sequence[Path],
    ensembles: Sequence[Sequence[Path]] = (),
    *,
    plugins: Sequence[str] = (),
    device: str | None = None,
) -> ServedRuns:
    """Open finished runs and ensembles without loading their models.

    Raise UserError if a folder is not a finished run, if a run or an ensemble is given twice, if the classes differ,
    or if a run classifies pairs of texts.
    """
    alone = [load_run(folder, plugins=plugins, device=device) for folder in runs]
    require_different(alone)
    means = [load_ensemble(folders, plugins=plugins, device=device) for folders in ensembles]
    models: list[FinishedRun | Ensemble] = [*alone, *means]
    require_different_ensembles(means)
    every_run = [run for model in models for run in runs_of(model)]
    require_same_classes(every_run)
    require_single_texts(every_run)
    names = [name_of(model) for model in models]
    if len(set(names)) < len(names):  # the same study in two folders, or ensembles of the same head
        names = [", ".join(str(run.folder) for run in runs_of(model)) for model in models]
    return ServedRuns(dict(zip(names, models, strict=True)))


def require_different_ensembles(ensembles: Sequence[Ensemble]) -> None:
    """Raise UserError if two ensembles have the same runs, in any order."""
    members = [frozenset(run.folder.resolve() for run in ensemble.runs) for ensemble in ensembles]
    if len(set(members)) < len(members):
        raise UserError("Both ensembles have the same runs. Pass different runs, or use --ensemble only once.")


def require_single_texts(runs: Sequence[FinishedRun]) -> None:
    """Raise UserError if a run classifies pairs of texts."""
    for run in runs:
        if run.config.data.reads_pairs:
            raise UserError(
                f"{run.folder} classifies pairs of texts (data.pair_column), but the server classifies single texts. "
                "Use `python -m imdbcls.predict`, or serve a run with joined texts (data.text_column=[first,second])."
            )


def name_of(model: FinishedRun | Ensemble) -> str:
    """Return the study and the name of a run. For an ensemble, return the studies, the heads and the number of runs."""
    if not isinstance(model, Ensemble):
        return f"{model.result['study']}/{model.result['name']}"
    heads = dict.fromkeys(f"{run.result['study']}/{run.config.head.name}" for run in model.runs)
    return f"{', '.join(heads)} (mean of {len(model.runs)} runs)"


def about(name: str, model: FinishedRun | Ensemble) -> RunInfo | EnsembleInfo:
    if isinstance(model, Ensemble):
        return EnsembleInfo(run=name, members=[run_info(name_of(run), run) for run in model.runs])
    return run_info(name, model)


def run_info(name: str, run: FinishedRun) -> RunInfo:
    return RunInfo(
        run=name,
        head=run.config.head.name,
        backbone=run.config.backbone.name,
        max_length=run.config.max_length,
        temperature=run.temperature,
        test_accuracy=run.result["test/accuracy"],
    )


def answers_of(model: FinishedRun | Ensemble, texts: Sequence[str]) -> list[Answer]:
    predictions, first = model.predict(texts), runs_of(model)[0]
    assert predictions.tokens is not None
    read = predictions.tokens - first.cut_tokens(predictions)
    rows = zip(
        predictions.names,
        predictions.known_probabilities.tolist(),
        predictions.tokens.tolist(),
        read.tolist(),
        strict=True,
    )
    return [
        Answer(
            label, dict(zip(model.label_names, probabilities, strict=True)), tokens, tokens_read, tokens_read < tokens
        )
        for label, probabilities, tokens, tokens_read in rows
    ]
