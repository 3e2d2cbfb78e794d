"""The smallest run, and where the project and its data are."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


SHARED = Path(os.environ.get("IMDBCLS_SHARED", ROOT.parent / "shared"))


# The smallest run that does everything: random two-layer encoder, shipped documents, a few steps.
TINY = (
    "backbone=tiny",
    "data=sample",
    "max_length=64",
    "epochs=2",
    "trainer.log_every=1",
    "data.train_limit=64",
    "data.validation_limit=24",
    "data.test_limit=40",
)


# Settings of the person who runs the tests that would change what a command does.
PERSONAL = ("WANDB_", "HF_", "HUGGINGFACE_", "IMDBCLS_", "XDG_", "NETRC", "TRANSFORMERS_", "HYDRA_")


Launch = Callable[..., subprocess.CompletedProcess[str]]
