"""Do the work that all jobs of a sweep share, before the first job is forked."""

from typing import TYPE_CHECKING

from imdbcls.runtime.process import prepare_process

if TYPE_CHECKING:
    from imdbcls.config.schema import Config


def prepare_jobs(config: "Config") -> None:
    """Import all modules and read the documents once, before jobs are forked.

    The jobs then run the code as it was when the sweep started, and do not repeat the imports.
    """
    prepare_process()
    import pyarrow.parquet  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torchmetrics.functional.classification  # noqa: F401

    from imdbcls import build, tracking  # noqa: F401
    from imdbcls.construction import keep_corpus
    from imdbcls.training import report  # noqa: F401

    tracking.import_early(config.tracker)
    keep_corpus(config.data)
