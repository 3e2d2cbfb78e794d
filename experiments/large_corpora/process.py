"""Run a command, and measure its memory and CPU time from `/proc` (Linux)."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """What a command used.

    `private_mb` is the peak of its own memory, summed over its processes: memory that is not backed by a file
    (`RssAnon`). `resident_mb` also contains the pages of mapped files (`VmRSS`), which the kernel shares between
    processes and drops when memory is short. `cpu_seconds` covers all processes of the command.
    """

    private_mb: float
    resident_mb: float
    cpu_seconds: float
    wall_seconds: float


def measure(command: Sequence[str], output: Path) -> Usage:
    """Run a command with its messages in the file `output`. Raise RuntimeError if it fails."""
    started = time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    private = resident = 0.0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        memory = [memory_of(pid) for pid in family_of(process.pid)]
        private = max(private, sum(anonymous for anonymous, _ in memory))
        resident = max(resident, sum(total for _, total in memory))
        time.sleep(POLL_SECONDS)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {output.read_text()[-2000:]}")
    wall_seconds = time.monotonic() - started
    return Usage(private, resident, usage.ru_utime + usage.ru_stime, wall_seconds)


def family_of(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    family = [pid]
    for parent in family:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                family += map(int, children.read_text().split())
            except OSError:  # the thread has ended
                continue
    return family


def memory_of(pid: int) -> tuple[float, float]:
    """Return the anonymous and the total resident memory of a process in MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has ended
        return 0.0, 0.0
    values = {name: text for name, _, text in (line.partition(":") for line in lines)}
    return tuple(int(values.get(key, "0 kB").split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))
