"""Explain the predictions of all runs for one text."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from imdbcls.errors import UserError
from imdbcls.explanations import explain
from imdbcls.serving.runs import ServedRuns

logger = logging.getLogger(__name__)

EXAMPLE = "A quiet, patient film."


@dataclass(frozen=True)
class Explained:
    """The words that a run read: (word, first character, character after the last, score)."""

    words: tuple[tuple[str, int, int, float], ...]
    completeness_error: float


def explain_all(runs: ServedRuns, text: str, label: str) -> Mapping[str, Explained]:
    """Return how much each word moved the logit of class `label`, by name of the run.

    Raises UserError if `label` is not a class of the runs, or if a run cannot be explained.
    """
    found = {name: explain(run, text, label) for name, run in runs.by_name.items()}
    return {
        name: Explained(
            tuple(
                (word, start, end, score)
                for word, (start, end), score in zip(each.words, each.spans, each.scores, strict=True)
            ),
            each.completeness_error,
        )
        for name, each in found.items()
    }


def warm_up(runs: ServedRuns) -> None:
    """Load the models and answer for an example, so that errors appear now and the first request is fast.

    Log a warning if a run can classify texts but cannot be explained.
    """
    runs.classify([EXAMPLE])
    try:
        explain_all(runs, EXAMPLE, runs.label_names[0])
    except UserError as error:
        logger.warning(f"The page cannot highlight words, and POST /explain returns an error: {error}")
