"""Detect whether a W&B sweep agent started this process."""

import os


def in_sweep() -> bool:
    """Return whether this process is a run of a W&B sweep. The sweep sets the run's id, project and entity."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))
