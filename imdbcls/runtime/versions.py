"""Return the software versions that a run records: installed distributions, and the git commit of this package."""

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = (
    "imdbcls",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "hydra-core",
    "wandb",
    "numpy",
)
NUMERIC_DISTRIBUTIONS = ("imdbcls", "torch", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed distributions that runs depend on."""
    found = {"python": platform.python_version()}
    for distribution in DISTRIBUTIONS:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:  # not installed, or imported from PYTHONPATH
            continue
    return found


def numeric_versions() -> dict[str, str]:
    """Return the versions of the distributions that can change the last bits of a result."""
    found = versions()
    return {name: found.get(name, "unknown") for name in NUMERIC_DISTRIBUTIONS}


@cache
def git_commit() -> str | None:
    """Return the git commit of this package's code at the first call, with `-dirty` if files have changed.

    Return None if the code is not in a git clone, or if git is not installed.
    """
    folder, name = Path(__file__).parent, Path(__file__).name
    if shutil.which("git") is None:
        return None
    git = ["git", "-C", str(folder)]
    tracked = subprocess.run([*git, "ls-files", "--error-unmatch", name], capture_output=True, check=False)
    if tracked.returncode != 0:
        return None
    describe = [*git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or None
