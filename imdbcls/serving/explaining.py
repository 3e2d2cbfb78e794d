"""Explain the predictions of all runs for one text."""

import logging
from functools import partial

from imdbcls.errors import UserError
from imdbcls.explanations import Explanation, explain
from imdbcls.serving.model_thread import ModelThread
from imdbcls.serving.runs import Answer, ServedRuns

logger = logging.getLogger(__name__)

EXAMPLE = "A quiet, patient film."


async def explain_all(
    models: ModelThread[dict[str, Answer]], runs: ServedRuns, text: str, label: str
) -> dict[str, Explanation]:
    """Return the explanation of each run, keyed by the name of the run.

    Each explanation is a separate call, so that the thread can answer other requests between two explanations. Raise
    UserError as `explain` does, and BusyError if too many explanations wait.
    """
    return {name: await models.call(partial(explain, run, text, label)) for name, run in runs.by_name.items()}


def warm_up(runs: ServedRuns) -> None:
    """Load the models and classify an example, so that errors appear at the start and the first request is fast.

    Log a warning if a run can classify texts but cannot be explained.
    """
    runs.classify([EXAMPLE])
    try:
        for run in runs.by_name.values():
            explain(run, EXAMPLE, run.label_names[0])
    except UserError as error:
        logger.warning(f"The page cannot highlight words, and POST /explain returns an error: {error}")
