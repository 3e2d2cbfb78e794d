"""Find the texts of the test documents, if the data of a study can be read here."""

import logging

from imdbcls.comparison.run_files import plain
from imdbcls.comparison.study import Study
from imdbcls.construction import read_texts
from imdbcls.errors import UserError

logger = logging.getLogger(__name__)


def texts_of(study: Study) -> dict[str, str]:
    """Return the test documents' texts by id; if they cannot be read, warn and return none."""
    run = study.groups[0].runs[0]
    try:
        return read_texts(run.config, str(run.result.get("split_hash")))
    except Exception as error:  # a stranger's configuration can fail in any way, and nothing else depends on texts
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        logger.warning(f"the page shows no texts of documents: {kind}{plain(str(error), 400)}")
        return {}
