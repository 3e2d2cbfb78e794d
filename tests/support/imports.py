"""Find the heavy libraries that a command imports."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "wandb")


def heavy_imports(module: str, arguments: Sequence[str], folder: Path) -> tuple[str, str]:
    """Run `python -m module arguments`. Return its exit code and its heavy imports, both as text."""
    code = (
        "import sys, runpy\n"
        "code = None\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as exit_:\n"
        "    code = exit_.code\n"
        f"print(code, set({HEAVY!r}) & set(sys.modules), sep='|')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    exit_code, found = answer.stdout.splitlines()[-1].split("|")
    return exit_code, found
