"""Read the logs that W&B writes offline."""

import subprocess
from pathlib import Path


def inspect(log: Path, *options: str) -> str:
    """Return the output of `wandb leet inspect --json` by calling its underlying program directly.

    Importing `wandb` would take a second.
    """
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", *options, "--json", "--run-file", str(log)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
