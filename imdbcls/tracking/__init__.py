"""Mirrors runs and comparisons to Weights & Biases; the only package that imports wandb, once a run is opened."""

from imdbcls.tracking.none import NoTracker
from imdbcls.tracking.run import WandbTracker
from imdbcls.tracking.session import MODES, RunIdentity

Tracker = WandbTracker | NoTracker

__all__ = ["MODES", "NoTracker", "RunIdentity", "Tracker", "WandbTracker"]
