"""Decide how many jobs of a sweep run in parallel, and which GPU each of them uses."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imdbcls.config.schema import Config


def num_jobs(config: "Config") -> int:
    """Return the number of parallel jobs. `jobs=auto` means one job per GPU, or one job if the device is not CUDA."""
    return max(1, len(gpus_of(config))) if config.jobs == "auto" else config.jobs


def gpus_of(config: "Config") -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each GPU that the jobs may use; [] if they run on another device."""
    if config.device not in ("auto", "cuda"):
        return []
    from imdbcls.runtime.device import visible_gpus

    return visible_gpus()


def choose_gpu(config: "Config", slot: int) -> None:
    """Restrict this job to one GPU. Jobs that run at the same time have different values of `slot`, counted from 0.

    Call this function before CUDA is initialized. With more jobs than GPUs, several jobs share a GPU.
    """
    gpus = gpus_of(config)
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
