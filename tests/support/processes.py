"""Run commands in real processes that start quickly: they are forked from a server that has imported PyTorch."""

import atexit
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from imdbcls.kernels import loading
from imdbcls.runtime.cache import default_cache_dir
from support.limits import HANG_SECONDS

if TYPE_CHECKING:
    from imdbcls.data.batch import Batch
    from imdbcls.training.trainer import Trainer

TINY = (
    "backbone=tiny",
    "data=sample",
    "tracker=none",
    "max_length=48",
    "batch_size=8",
    "epochs=2",
    "data.train_limit=96",
    "data.test_limit=40",
    "device=cpu",
    "precision=fp32",
    "lr=1e-3",
    "progress=none",
    "trainer.log_every=3",
)
EVERY_STEP = "checkpoint.every_minutes=1e-9"  # save a checkpoint after each step
KERNELS = default_cache_dir() / "kernels"
TIMES = ("seconds", "per_second", "latency_ms", "peak_memory_mb", "finished_at")

# One fork server per test process. Its commands start with these modules already imported.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        *(
            f"imdbcls.{name}"
            for name in ("train", "study", "evaluate", "predict", "compare", "doctor", "build", "data.card")
        ),
        "imdbcls.training.report",
        "sklearn.metrics",
        "torchmetrics.functional.classification",
    ]
)


def _run_module(module: str, arguments: Sequence[str], folder: str, environment: dict[str, str], logs: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the fork server may have read TMPDIR
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{logs}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [module, *arguments]
    warnings.filterwarnings("ignore", message=".*found in sys.modules")  # the fork server has imported the module
    runpy.run_module(module, run_name="__main__")


def run_module(
    folder: Path, module: str, *arguments: str, environment: dict[str, str], fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in a folder, with exactly these environment variables.

    With `fresh`, start a new interpreter, which takes six seconds. Otherwise, fork the process, which takes a tenth of
    a second. In a forked process, variables that libraries read when they are imported (`HF_*`) have no effect.
    """
    if fresh:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
        )
    with tempfile.TemporaryDirectory() as logs:
        process = context.Process(target=_run_module, args=(module, arguments, str(folder), environment, logs))
        process.start()
        process.join(HANG_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        texts = [Path(logs, name).read_text("utf-8") for name in ("stdout", "stderr")]
        assert process.exitcode is not None
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, *texts)


def _run(
    command: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    log: str,
    file_limit: int | None,
    prepare: Callable[[], None] | None,
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None  # the fork server may have read TMPDIR
    sys.path[:0] = environment.get("PYTHONPATH", "").split(":")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    sys.argv = [command, *arguments]
    # The process was started as a daemon, so that it ends with pytest. Reset the flag: a daemon cannot start processes.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    import torch

    torch.set_num_threads(int(environment.get("THREADS", "1")))
    if prepare is not None:
        prepare()
    try:
        import_module(command).command()
    finally:
        spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        Path(f"{log}.cpu").write_text(str(sum(usage.ru_utime + usage.ru_stime for usage in spent)))


@dataclass
class Command:
    """A running command, such as `python -m imdbcls.train ...`. Its output is in `log`."""

    process: ForkServerProcess
    log: Path

    def wait(self) -> int:
        self.process.join(HANG_SECONDS)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"no result after {HANG_SECONDS} s:\n{self.output}")
        return self.process.exitcode

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of a finished command and its jobs. Unlike wall time, it does not depend on other processes."""
        return float(Path(f"{self.log}.cpu").read_text())

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def start(
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    file_limit: int | None = None,
    command: str = "imdbcls.train",
    prepare: Callable[[], None] | None = None,
) -> Command:
    """Start a command with `folder` as its working directory. `file_limit` is in bytes (RLIMIT_FSIZE).

    The new process calls `prepare` before the command.
    """
    log = folder.with_name(f"{folder.name}-log-{time.monotonic_ns()}")  # outside `folder`, whose disk may be full
    variables = {"IMDBCLS_CACHE": str(folder / "cache"), **(environment or {})}
    share_kernels(Path(variables["IMDBCLS_CACHE"]))
    process = context.Process(
        target=_run, args=(command, list(arguments), variables, str(folder), str(log), file_limit, prepare)
    )
    process.daemon = True  # so that a failing test leaves no process
    process.start()
    atexit.register(process.kill)  # runs before multiprocessing's handler, which sends SIGTERM and waits
    return Command(process, log)


def share_kernels(cache: Path) -> None:
    """Copy this process's compiled kernels to a test's cache, because compiling them takes seconds."""
    for dtype in (torch.bfloat16, torch.float32):
        loading.load(dtype)
    cache.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (cache / "kernels").mkdir(mode=0o700)
        for path in KERNELS.glob("*.so"):
            shutil.copy2(path, cache / "kernels")


def run(folder: Path, *arguments: str, **options: Any) -> Command:
    """Run a training command that must succeed."""
    command = start(folder, *arguments, **options)
    assert command.wait() == 0, command.output
    return command


def wait_in_training(must_wait: Callable[["Trainer"], bool]) -> None:
    """Let this process and its jobs wait before each step, while `must_wait` is true and no signal has arrived.

    Otherwise, a command may end before a test on a busy machine sends its signal.
    """
    from imdbcls.training.trainer import Trainer

    train_step = Trainer.step

    def waiting_step(trainer: Trainer, batch: "Batch") -> Any:
        while trainer.control.stop.signal_number is None and must_wait(trainer):
            time.sleep(0.01)
        return train_step(trainer, batch)

    Trainer.step = waiting_step  # type: ignore[method-assign]


def wait_before_step(step: int, run: str = "") -> None:
    """Let runs whose name starts with `run` wait for a signal before a step, counted from 1."""
    wait_in_training(
        lambda trainer: trainer.state.step == step - 1 and trainer.saver.last.parents[1].name.startswith(run)
    )


def wait_after_runs(number: int) -> None:
    """Let runs wait for a signal as soon as `number` runs of the working directory have a `result.json`."""
    wait_in_training(lambda _: len(list(Path().glob("runs/*/*/result.json"))) >= number)


def wait_for_runs(number: int) -> None:
    """Let the runs of a sweep wait before their first step until `number` of them are ready for it."""

    def must_wait(trainer: "Trainer") -> bool:
        if trainer.state.step > 0:
            return False
        Path(f"{trainer.saver.last.parents[1].name}.begun").touch()
        return len(list(Path().glob("*.begun"))) < number

    wait_in_training(must_wait)


def wait_before_result() -> None:
    """Let this process wait before it writes the `result.json` of a finished run, until it is killed."""
    from imdbcls.training import report

    def wait(*_: Any) -> Any:
        while True:
            time.sleep(1)

    report.result_of = wait


def wait_after_checkpoint(step: int) -> None:
    """Let this process wait when the checkpoint of a step is certainly on disk.

    The process waits three steps later, because up to two checkpoints may not be on disk yet when a step begins. If the
    run has fewer steps, the process waits before it writes its result.
    """
    wait_before_step(step + 4)
    wait_before_result()


def wait_for(condition: Callable[[], bool], command: Command) -> bool:
    """Wait until the condition is true. Return False if the command ends first."""
    limit = time.monotonic() + HANG_SECONDS
    while command.alive:
        if condition():
            return True
        assert time.monotonic() < limit, command.output
        time.sleep(0.002)
    return False


def run_folder(folder: Path) -> Path:
    (found,) = [path for path in folder.glob("runs/*/*") if path.is_dir() and path.name != "wandb"]
    return found


def saved_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in a working directory, or -1 if there is no checkpoint yet."""
    steps = [-1]
    for state in folder.glob("runs/*/*/checkpoints/last*/state.json"):
        try:
            steps.append(json.loads(state.read_text())["train"]["step"])
        except (OSError, ValueError):  # the checkpoint is being written or renamed
            continue
    return max(steps)


def kill_at(folder: Path, *arguments: str, step: int, delay: float = 0.0, **options: Any) -> Command:
    """Start a command, and send SIGKILL `delay` seconds after a step's checkpoint exists."""
    command = start(folder, *arguments, prepare=partial(wait_after_checkpoint, step), **options)
    assert wait_for(lambda: saved_step(folder) >= step, command), command.output
    time.sleep(delay)
    command.kill()
    assert command.process.exitcode == -signal.SIGKILL, command.output
    return command


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def points(run: Path) -> list[dict[str, Any]]:
    """Return the records of `metrics.jsonl` without timings. Every line must be complete."""
    text = (run / "metrics.jsonl").read_text()
    assert text.endswith("\n") or not text
    lines = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(TIMES)} for line in lines]


def tensors(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return {name: hashlib.sha256(file.get_tensor(name).numpy().tobytes()).hexdigest() for name in file.keys()}  # noqa: SIM118


def fingerprint(folder: Path) -> dict[str, Any]:
    """Return everything that must be equal for two runs of one command: all results except timings."""
    run = run_folder(folder)
    result = json.loads((run / "result.json").read_text())
    best = json.loads((run / "checkpoints/best/state.json").read_text())
    last = json.loads((run / "checkpoints/last/state.json").read_text())
    last["train"] = {
        key: value for key, value in last["train"].items() if not key.endswith(("seconds", "log_bytes", "sha256"))
    }
    last["meter"] = {key: value for key, value in last["meter"].items() if not key.endswith("seconds")}
    return {
        "files": {
            str(path): digest(run / path)
            for path in (
                Path("checkpoints/best/model.safetensors"),
                Path("checkpoints/last/model.safetensors"),
                Path("checkpoints/last/optimizer.safetensors"),
                Path("predictions/test.parquet"),
                Path("predictions/validation.parquet"),
            )
        },
        "points": points(run),
        "result": {
            key: value
            for key, value in result.items()
            if not key.endswith(TIMES) and key not in ("git_commit", "command")
        },
        "best": best,
        "last": last,
    }
