"""Mirrors runs and comparisons to Weights & Biases; the only package that imports wandb, once a run is opened."""

import contextlib
import importlib
import logging
from collections.abc import Mapping
from typing import Any

from imdbcls.tracking import environment
from imdbcls.tracking.none import NoTracker
from imdbcls.tracking.run import WandbTracker
from imdbcls.tracking.session import RunIdentity

logger = logging.getLogger(__name__)

Tracker = WandbTracker | NoTracker

__all__ = ["NoTracker", "RunIdentity", "Tracker", "WandbTracker", "import_early"]


def import_early(settings: Mapping[str, Any]) -> None:
    """Import what a run with these settings of the tracker will, before it is opened; nothing for `tracker=none`.

    A sweep does so once for all its jobs, each of which would take a second. No thread is started, and what fails is
    left for the run to say.
    """
    if settings.get("mode", "disabled") == "disabled":
        return
    note = environment.ignored(str(settings["mode"]))
    if note is not None:
        logger.warning(note)
    # wandb itself imports the second as it opens any run, the third as it takes a table.
    for module in ("wandb", "wandb.sdk.launch.inputs.internal", "requests"):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
