"""Log runs and comparisons to W&B, TensorBoard and MLflow.

Only this package imports their client libraries, and it imports a library only when a tracker needs it.
"""

import importlib
import logging

from imdbcls.config.schema import TrackerConfig
from imdbcls.runtime.preloading import preload
from imdbcls.tracking import environment
from imdbcls.tracking.protocol import RunIdentity, Tracker
from imdbcls.tracking.several import Trackers
from imdbcls.tracking.wandb import WandbTracker

logger = logging.getLogger(__name__)

__all__ = ["RunIdentity", "Tracker", "Trackers", "WandbTracker", "import_early"]


def import_early(config: TrackerConfig) -> None:
    """Import the client libraries of the chosen trackers before a run is opened.

    The imports take seconds, so a sweep calls this function once for all its jobs. The function starts no thread. It
    logs a warning if W&B's environment variables are ignored. Import errors are suppressed here and reported when a run
    is opened.
    """
    if config.mode == "disabled":
        return
    for name, section in config.chosen.items():
        note = environment.ignored(config.mode) if name == "wandb" else None
        if note is not None:
            logger.warning(note)
        home = section.target.rpartition(".")[0]
        if home.startswith("imdbcls.tracking."):
            preload(importlib.import_module(home).IMPORTED_LATER)
