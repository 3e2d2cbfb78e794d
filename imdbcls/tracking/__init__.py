"""Log runs and comparisons to Weights & Biases. Only this package imports wandb, and only when it is needed."""

import contextlib
import importlib
import logging
from collections.abc import Mapping
from typing import Any

from imdbcls.tracking import environment
from imdbcls.tracking.none import NoTracker
from imdbcls.tracking.session import RunIdentity
from imdbcls.tracking.wandb import WandbTracker

logger = logging.getLogger(__name__)

Tracker = WandbTracker | NoTracker

__all__ = ["NoTracker", "RunIdentity", "Tracker", "WandbTracker", "import_early"]


def import_early(settings: Mapping[str, Any]) -> None:
    """Import wandb before a run is opened, if the tracker's settings need it.

    A sweep calls this once for all its jobs, because the import takes about a second. No thread is started. A warning
    is logged if some of W&B's environment variables are ignored. Import errors are reported only when a run is opened.
    """
    if settings.get("mode", "disabled") == "disabled":
        return
    note = environment.ignored(str(settings["mode"]))
    if note is not None:
        logger.warning(note)
    # wandb imports the second module when it opens a run, and the third when it logs a table.
    for module in ("wandb", "wandb.sdk.launch.inputs.internal", "requests"):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
