"""Explain the predictions of all runs for one text."""

import logging
from dataclasses import dataclass
from functools import partial

from imdbcls.api import FinishedRun
from imdbcls.errors import UserError
from imdbcls.explanations import explain
from imdbcls.serving.model_thread import ModelThread
from imdbcls.serving.runs import Answer, ServedRuns

logger = logging.getLogger(__name__)

EXAMPLE = "A quiet, patient film."


@dataclass(frozen=True)
class Explained:
    """The words that a run read: (word, first character, character after the last, score)."""

    words: tuple[tuple[str, int, int, float], ...]
    completeness_error: float


def explain_run(run: FinishedRun, text: str, label: str) -> Explained:
    """Return how much each word moved the logit of class `label`.

    Raises UserError if `label` is not a class of the run, or if the run cannot be explained.
    """
    found = explain(run, text, label)
    words = zip(found.words, found.spans, found.scores, strict=True)
    return Explained(tuple((word, start, end, score) for word, (start, end), score in words), found.completeness_error)


async def explain_all(
    models: ModelThread[dict[str, Answer]], runs: ServedRuns, text: str, label: str
) -> dict[str, Explained]:
    """Return the explanations of all runs, by name.

    Each is a call of its own, so that other requests are answered in between. Raises UserError as `explain_run`, and
    BusyError if too many explanations wait.
    """
    return {name: await models.call(partial(explain_run, run, text, label)) for name, run in runs.by_name.items()}


def warm_up(runs: ServedRuns) -> None:
    """Load the models and answer for an example, so that errors appear now and the first request is fast.

    Log a warning if a run can classify texts but cannot be explained.
    """
    runs.classify([EXAMPLE])
    try:
        for run in runs.by_name.values():
            explain_run(run, EXAMPLE, run.label_names[0])
    except UserError as error:
        logger.warning(f"The page cannot highlight words, and POST /explain returns an error: {error}")
