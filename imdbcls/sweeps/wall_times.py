"""Record how long each run of a study took, in `wall_times.json` in the study folder."""

import logging
import math
from pathlib import Path
from typing import TypeGuard

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import FORMAT_VERSION, WALL_TIMES, read_versioned
from imdbcls.runtime.atomic import write_atomically

logger = logging.getLogger(__name__)

FILE = "wall_times.json"


class WallTimes:
    """The seconds that each named run took, including the start of the process, loading and evaluation.

    While n runs train on this machine at the same time, each of them gets 1 / n of the time. If a run was interrupted
    and continued, its times are added. If a command is killed, the times of the runs that it was training on this
    machine are lost.
    """

    def __init__(self, study: Path) -> None:
        self.path = study / FILE
        self.seconds: dict[str, float] = {}
        if self.path.exists() or self.path.is_symlink():
            try:
                content = read_versioned(self.path, WALL_TIMES).get("seconds")
            except UserError as error:
                logger.warning(f"{error} For earlier runs, train_seconds from their result.json is used instead.")
                return
            known = content.items() if isinstance(content, dict) else ()
            self.seconds = {name: float(value) for name, value in known if is_amount(value)}

    def add(self, name: str, seconds: float) -> None:
        """Add the time of a process that trained the run, and write the file."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        write_atomically(self.path, json_text({FORMAT_VERSION: WALL_TIMES, "seconds": self.seconds}, indent=2) + "\n")


def is_amount(value: object) -> TypeGuard[float]:
    """Return whether a value from a file is a finite number of at least zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
