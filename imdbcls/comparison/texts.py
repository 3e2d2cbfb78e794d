"""Find the texts of the test documents, if the data of the study can be read on this machine."""

import logging

from imdbcls.comparison.run_files import sanitize
from imdbcls.comparison.study import Study
from imdbcls.construction import read_texts
from imdbcls.errors import UserError

logger = logging.getLogger(__name__)


def texts_of(study: Study) -> dict[str, str]:
    """Map the ids of the test documents to their texts. A predictions file has no texts and gives an empty dict.

    If the texts of a study folder cannot be read, log a warning and return an empty dict.
    """
    if study.file is not None:
        return {}
    run = study.groups[0].runs[0]
    try:
        return read_texts(run.config, str(run.result.get("split_hash")))
    except Exception as error:  # an untrusted config can cause any exception, and only the list of mistakes needs texts
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        logger.warning(f"the page will not show document texts: {kind}{sanitize(str(error), 400)}")
        return {}
