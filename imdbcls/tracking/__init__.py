"""Log runs and comparisons to W&B, TensorBoard and MLflow. Only this package imports them, when they are needed."""

import contextlib
import importlib
import logging

from imdbcls.config.schema import TrackerConfig
from imdbcls.tracking import environment
from imdbcls.tracking.protocol import RunIdentity, Tracker
from imdbcls.tracking.several import Trackers
from imdbcls.tracking.wandb import WandbTracker

logger = logging.getLogger(__name__)

__all__ = ["RunIdentity", "Tracker", "Trackers", "WandbTracker", "import_early"]


def import_early(config: TrackerConfig) -> None:
    """Import the packages of the chosen trackers before a run is opened.

    A sweep calls this once for all its jobs, because the imports take seconds. No thread is started. A warning
    is logged if some of W&B's environment variables are ignored. Import errors are reported only when a run is opened.
    """
    if config.mode == "disabled":
        return
    for name, section in config.chosen.items():
        note = environment.ignored(config.mode) if name == "wandb" else None
        if note is not None:
            logger.warning(note)
        home = section.target.rpartition(".")[0]
        if home.startswith("imdbcls.tracking."):
            for module in importlib.import_module(home).IMPORTED_LATER:
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
