"""Run the compared systems in turn, each in its own process so that its peak memory can be measured.

This module does not import PyTorch: the process of a tuned system first changes settings that PyTorch reads at import.
"""

import logging
import multiprocessing
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from imdbcls.errors import UserError
from imdbcls.runtime.console import quiet_libraries
from imdbcls.runtime.process import tune_process

logger = logging.getLogger(__name__)

# Maximum relative difference between the systems' losses on the first batch, by precision.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}

# Methods of a system that are called before the first round.
TASK = ("precision", "first_loss", "num_documents", "num_tokens", "forward_flops")

_processes = multiprocessing.get_context("spawn")  # a forked process would share the memory and threads of its parent


@dataclass(frozen=True)
class SystemSpec:
    """A system to compare: `key` is the name of a function in `systems.py`.

    If `tuned` is set, the process first applies the settings of `imdbcls.runtime.process`.
    """

    key: str
    name: str
    tuned: bool


@dataclass
class Outcome:
    """The task and the measurements of one system.

    `seconds` contains one value per round. `systems.py` documents the other values.
    """

    system: SystemSpec
    precision: str
    first_loss: float
    num_documents: int
    num_tokens: int
    forward_flops: int
    seconds: list[float] = field(default_factory=list)
    padding_share: float = 0.0
    peak_memory_mb: float = 0.0


class Worker:
    """A system in its own process, as a context manager. `call` returns the result of a method."""

    def __init__(self, system: SystemSpec, settings: dict[str, Any]) -> None:
        self.system = system
        self._connection, child = _processes.Pipe()
        arguments = (child, system, settings)
        self._process = _processes.Process(target=serve, args=arguments, name=system.name, daemon=True)
        self._process.start()
        child.close()  # otherwise `recv` would wait forever if the process ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def call(self, method: str) -> Any:
        try:
            self._connection.send(method)
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError(f"The process of {self.system.name} ended early; see its output above.") from error


def serve(connection: Any, spec: SystemSpec, settings: dict[str, Any]) -> None:
    """Run a system in this process: receive method names and send their results until the connection is closed."""
    quiet_libraries()
    if spec.tuned:
        tune_process()
    import systems

    system = getattr(systems, spec.key)(settings)
    while True:
        try:
            method = connection.recv()
        except EOFError:
            return
        connection.send(getattr(system, method)())


def benchmark(
    specs: Sequence[SystemSpec], settings: dict[str, Any], max_rounds: int, max_seconds: float
) -> list[Outcome]:
    """Warm up all systems, then run them in turn for up to `max_rounds` rounds.

    Stop early if the next round would probably end more than `max_seconds` after the start of this function.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(spec, settings)) for spec in specs]
        outcomes = [Outcome(worker.system, *map(worker.call, TASK)) for worker in workers]
        require_same_task(outcomes)
        for worker in workers:
            logger.info(f"warm-up: {worker.system.name}")
            worker.call("warm_up")
        for number in range(max_rounds):
            round_started = time.monotonic()
            for worker, outcome in zip(workers, outcomes, strict=True):
                outcome.seconds.append(worker.call("round"))
                logger.info(f"round {number + 1} of {max_rounds}: {worker.system.name}, {outcome.seconds[-1]:.1f} s")
            now = time.monotonic()
            if number + 1 < max_rounds and now + (now - round_started) - started > max_seconds:
                logger.info(
                    f"stopping after {number + 1} of {max_rounds} rounds: the time limit is {max_seconds:.0f} s"
                )
                break
        for worker, outcome in zip(workers, outcomes, strict=True):
            outcome.padding_share = worker.call("padding_share")
            outcome.peak_memory_mb = worker.call("peak_memory_mb")
    return outcomes


def require_same_task(outcomes: Sequence[Outcome]) -> None:
    """Raise UserError if the systems have different losses on the first batch, or different documents."""
    first = outcomes[0]
    for outcome in outcomes[1:]:
        tolerance = max(TOLERANCE[first.precision], TOLERANCE[outcome.precision])
        if not abs(outcome.first_loss - first.first_loss) <= tolerance * first.first_loss:  # `not <=` also refuses NaN
            raise UserError(
                f"The loss on the first batch is {outcome.first_loss:.6f} for {outcome.system.name} and "
                f"{first.first_loss:.6f} for {first.system.name}, so the two systems compute different functions."
            )
        if (outcome.num_documents, outcome.num_tokens) != (first.num_documents, first.num_tokens):
            raise UserError(f"{outcome.system.name} and {first.system.name} did not get the same documents.")
