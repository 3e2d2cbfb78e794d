"""The local W&B logs that earlier processes of a run wrote: the last step in them, and which of them are replaced.

If a run starts from the beginning, its new log replaces its earlier logs, which are then ignored when the run resumes.
All logs stay on disk: `wandb sync` uploads them in order, and the new log then overwrites the earlier ones.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from imdbcls.runtime.atomic import write_atomically
from imdbcls.tracking.torn_log import remove_incomplete_record

INSPECT_SECONDS = 60.0  # time limit for reading a log, which takes seconds on a busy machine


def replace_logs(logs: Sequence[Path], list_file: Path) -> None:
    """Write the folder names of `logs`, the earlier logs of a run that starts from the beginning, to `list_file`.

    Also remove incomplete records, because `wandb sync` would skip the new log otherwise.
    """
    if logs:
        write_atomically(list_file, "".join(f"{log.parent.name}\n" for log in logs), durable=False)
    for log in logs:
        remove_incomplete_record(log)


def last_logged_step(logs: Iterable[Path], list_file: Path, resumed_step: int) -> int:
    """Return the last step in the logs, without those in `list_file`. Return -1 if there are no steps.

    The log of a killed process may lack the last steps. If a log ends inside a record, the record is removed. If a log
    cannot be read, its last step is assumed to be `resumed_step`.
    """
    replaced = list_file.read_text(encoding="utf-8", errors="replace").splitlines() if list_file.is_file() else []
    return max((_last_step(log, resumed_step) for log in logs if log.parent.name not in replaced), default=-1)


def _last_step(log: Path, resumed_step: int) -> int:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", str(log), "--summary", "--json"]
    try:
        remove_incomplete_record(log)
        answer = subprocess.run(command, capture_output=True, timeout=INSPECT_SECONDS, check=True).stdout
        logged = json.loads(answer)["step"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return resumed_step
    return -1 if logged is None else int(logged)
