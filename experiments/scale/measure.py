"""Measure data-parallel training on the CPUs of this machine: `python experiments/scale/measure.py --help`.

Four experiments, whose results are added to one JSON file:

- `speed` trains the same run in one process with all threads, and in 1, 2, … processes with one thread each. These
  settings take turns, so that other load on the machine affects all of them.
- `cpu` measures the processor time per document for each number of processes, from the difference between a long and a
  short run. Other load on the machine hardly changes processor time.
- `losses` trains the same run without dropout with each number of processes, and compares the losses of every step.
- `kill` kills one of two processes (SIGKILL) and measures the seconds until all processes have ended.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imdbcls.runs.files import json_text

SETTINGS = ("data=sample", "tracker=none", "progress=none", "checkpoint.every_minutes=null", "device=cpu")
SPEED = ("backbone=minilm", "max_length=128", "epochs=1", "data.validation_limit=8", "data.test_limit=8")
DOCUMENTS = (48, 288)  # training documents of the short and the long run in `cpu`
LOSSES = (
    *("backbone=minilm", "max_length=128", "epochs=2", "data.train_limit=250", "trainer.log_every=1"),
    *("precision=fp32", "backbone.dropout=0", "head.dropout=0", "lr=2e-5"),
)
KILL = ("backbone=minilm", "max_length=128", "epochs=50")
METRICS = ("train/loss", "train/grad_norm", "val/loss")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each setting, or number of kills (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("scale.json"))
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of imdbcls.train, for all runs")
    options = parser.parse_args(arguments)
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.experiments:
        results |= {"format_version": 1, "cores": os.cpu_count(), name: EXPERIMENTS[name](options)}
        results[name]["load_average"] = os.getloadavg()[2]  # mean of the last 15 minutes
        options.output.write_text(json_text(results, indent=1) + "\n")
        print(f"{name}: done")


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return the documents per second of each setting, one value per turn.

    Also return each setting's speed relative to one process with all threads, the alternative to several processes.
    """
    groups = [(1, os.cpu_count() or 1), *((number, 1) for number in options.processes)]
    found: dict[tuple[int, int], list[float]] = {group: [] for group in groups}
    for _ in range(options.repeats):
        for (processes, threads), speeds in found.items():
            with finished_run(processes, threads, [*SPEED, *options.settings]) as folder:
                speeds.append(json.loads((folder / "result.json").read_text())["documents_per_second"])
    first = found[groups[0]]
    rows = [
        {
            "processes": processes,
            "threads": threads,
            "documents_per_second": speeds,
            "median": statistics.median(speeds),
            "median_ratio": statistics.median(own / base for own, base in zip(speeds, first, strict=True)),
        }
        for (processes, threads), speeds in found.items()
    ]
    return {"settings": SPEED, "groups": rows}


def cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Return the processor seconds per training document for each number of processes, one value per turn."""
    found: dict[int, list[float]] = {processes: [] for processes in options.processes}
    for _ in range(options.repeats):
        for processes, per_document in found.items():
            short, long = (
                processor_seconds(processes, [*SPEED, f"data.train_limit={size}", *options.settings])
                for size in DOCUMENTS
            )
            per_document.append((long - short) / (DOCUMENTS[1] - DOCUMENTS[0]))
    return {"settings": SPEED, "documents": DOCUMENTS, "seconds_per_document": found}


def processor_seconds(processes: int, settings: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with finished_run(processes, 1, settings):
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def losses(options: argparse.Namespace) -> dict[str, Any]:
    """Return the losses and gradient norms for each number of processes.

    Also return their largest differences from the values with the first number of processes.
    """
    curves: dict[int, dict[str, list[float]]] = {}
    for processes in options.processes:
        with finished_run(processes, 1, [*LOSSES, *options.settings]) as folder:
            points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            curves[processes] = {name: [point[name] for point in points if name in point] for name in METRICS}
            curves[processes]["test/loss"] = [json.loads((folder / "result.json").read_text())["test/loss"]]
    base = curves[options.processes[0]]
    largest = {
        processes: {name: max(map(abs_difference, curve[name], base[name])) for name in base}
        for processes, curve in curves.items()
    }
    return {"settings": LOSSES, "largest_difference": largest, "curves": curves}


def abs_difference(one: float, other: float) -> float:
    return abs(one - other)


def kill(options: argparse.Namespace) -> dict[str, Any]:
    """For each repeat, return the seconds from killing process 1 of 2 until torchrun and all processes have ended."""
    return {"seconds": [seconds_until_all_end([*KILL, *options.settings]) for _ in range(options.repeats)]}


def seconds_until_all_end(settings: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [*command_of(2, settings), f"runs_dir={folder}/runs"]
        launcher = subprocess.Popen(command, env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any(map(has_lines, Path(folder).glob("runs/*/*/metrics.jsonl"))):  # training has not begun
                if launcher.poll() is not None:
                    raise RuntimeError("the run ended before it began to train")
                time.sleep(0.1)
            workers = {rank_of(worker): worker for worker in children_of(launcher.pid)}
            started = time.perf_counter()
            os.kill(workers["1"], signal.SIGKILL)
            launcher.wait()
            while any(is_running(worker) for worker in workers.values()):
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            launcher.terminate()
            launcher.wait()


def has_lines(path: Path) -> bool:
    return path.stat().st_size > 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(variable.removeprefix("RANK=") for variable in variables if variable.startswith("RANK="))


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def command_of(processes: int, settings: Sequence[str]) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, "-m", "imdbcls.train", *SETTINGS, *settings]


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


@contextmanager
def finished_run(processes: int, threads: int, settings: Sequence[str]) -> Iterator[Path]:
    """Train a run in `processes` processes with `threads` threads each, and yield its folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*command_of(processes, settings), f"runs_dir={folder}/runs"]
        done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        (result,) = Path(folder).glob("runs/*/*/result.json")
        yield result.parent


EXPERIMENTS = {"speed": speed, "cpu": cpu, "losses": losses, "kill": kill}

if __name__ == "__main__":
    main()
