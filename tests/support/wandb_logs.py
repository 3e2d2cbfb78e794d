"""Read the logs that W&B writes offline."""

import subprocess
from pathlib import Path


def inspect(log: Path, *options: str) -> str:
    """Return what `wandb leet inspect --json` prints, from the program that it calls.

    `wandb` itself takes a second to import.
    """
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", *options, "--json", "--run-file", str(log)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
