"""Arguments of the smallest run, and the paths of the project and its data."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


SHARED = Path(os.environ.get("IMDBCLS_SHARED", ROOT.parent / "shared"))


# The smallest complete run: a random encoder with two layers, the sample documents, a few steps.
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


# Prefixes of the developer's environment variables that would change what a command does.
PERSONAL = ("WANDB_", "MLFLOW_", "HF_", "HUGGINGFACE_", "IMDBCLS_", "XDG_", "NETRC", "TRANSFORMERS_", "HYDRA_")


def isolated(home: Path) -> dict[str, str]:
    """Return the environment variables without the developer's settings, and with another home folder."""
    home.mkdir(parents=True, exist_ok=True)
    return {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)} | {"HOME": str(home)}


Launch = Callable[..., subprocess.CompletedProcess[str]]
