"""Run a command, and measure its memory and CPU time from `/proc` (Linux)."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """The memory and time that a command used.

    `private_mb` is the peak of the memory that is not backed by a file (`RssAnon`), summed over the command's
    processes, in MiB. `resident_mb` also contains the pages of mapped files (`VmRSS`), which the kernel shares between
    processes and drops when memory is short. `cpu_seconds` covers all processes of the command. `cpu_at` maps each
    number of training steps that `measure` saw to the CPU seconds of the main process at that time.
    """

    private_mb: float
    resident_mb: float
    cpu_seconds: float
    wall_seconds: float
    cpu_at: dict[int, float]


def measure(
    command: Sequence[str], output: Path, num_steps: Callable[[], int] = lambda: 0, stop_at: int | None = None
) -> Usage:
    """Run a command, and write its stdout and stderr to `output`. Raise RuntimeError if the command fails.

    `num_steps` returns the number of training steps so far. At `stop_at` steps, the command gets SIGTERM.
    """
    started = time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    private = resident = 0.0
    cpu_at: dict[int, float] = {}
    allowed = 0
    while True:
        if (step := num_steps()) > 0:
            cpu_at.setdefault(step, cpu_of(process.pid))
            if stop_at is not None and step >= stop_at and allowed == 0:
                process.terminate()
                allowed = 128 + signal.SIGTERM
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        memory = [memory_of(pid) for pid in family_of(process.pid)]
        private = max(private, sum(anonymous for anonymous, _ in memory))
        resident = max(resident, sum(total for _, total in memory))
        time.sleep(POLL_SECONDS)
    if os.waitstatus_to_exitcode(status) not in (0, allowed):
        raise RuntimeError(f"{' '.join(command)} failed: {output.read_text()[-2000:]}")
    wall_seconds = time.monotonic() - started
    return Usage(private, resident, usage.ru_utime + usage.ru_stime, wall_seconds, cpu_at)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    """Return the anonymous and the total resident memory of a process in MiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has ended
        return 0.0, 0.0
    values = {name: text for name, _, text in (line.partition(":") for line in lines)}
    return tuple(int(values.get(key, "0 kB").split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))
