"""Runs contenders alternately, each in a process of its own, so that each one's peak memory is its own.

Nothing heavy is imported here: a contender's process sets what must be set before PyTorch is there.
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

# How far the loss of the first batch may lie from another contender's, as a fraction of it.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}

# What a contender is asked before the first round.
TASK = ("precision", "first_loss", "num_documents", "num_tokens", "forward_flops")

_processes = multiprocessing.get_context("spawn")  # a forked process would share its parent's memory and threads


@dataclass(frozen=True)
class Contender:
    """`key` names a function of `contenders.py`; `tuned` has the process take `imdbcls.runtime.process` first."""

    key: str
    name: str
    tuned: bool


@dataclass
class Outcome:
    """What one contender had to do, and needed for it: `seconds` of each round, the rest as `contenders.py` says."""

    contender: Contender
    precision: str
    first_loss: float
    num_documents: int
    num_tokens: int
    forward_flops: int
    seconds: list[float] = field(default_factory=list)
    padding_share: float = 0.0
    peak_memory_mb: float = 0.0


class Worker:
    """A contender in its own process, from `with` to its end; `call` asks it for one of its methods' results."""

    def __init__(self, contender: Contender, settings: dict[str, Any]) -> None:
        self.contender = contender
        self._ours, theirs = _processes.Pipe()
        arguments = (theirs, contender, settings)
        self._process = _processes.Process(target=serve, args=arguments, name=contender.name, daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.join()

    def call(self, method: str) -> Any:
        try:
            self._ours.send(method)
            return self._ours.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError(f"The process of {self.contender.name} ended early; what it said stands above.") from error


def serve(connection: Any, contender: Contender, settings: dict[str, Any]) -> None:
    """A contender's process: names of methods come in, their results go out, until the other end is closed."""
    quiet_libraries()
    if contender.tuned:
        tune_process()
    import contenders

    player = getattr(contenders, contender.key)(settings)
    while True:
        try:
            method = connection.recv()
        except EOFError:
            return
        connection.send(getattr(player, method)())


def contest(
    entrants: Sequence[Contender], settings: dict[str, Any], rounds: int, seconds_at_most: float
) -> list[Outcome]:
    """Every contender warms up, and then they take turns, `rounds` times.

    Where a further round would not end within `seconds_at_most` of the beginning, the ones before it have to do.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(entrant, settings)) for entrant in entrants]
        outcomes = [Outcome(worker.contender, *map(worker.call, TASK)) for worker in workers]
        require_same_task(outcomes)
        for worker in workers:
            logger.info(f"warming up: {worker.contender.name}")
            worker.call("warm_up")
        for number in range(rounds):
            round_began = time.monotonic()
            for worker, outcome in zip(workers, outcomes, strict=True):
                outcome.seconds.append(worker.call("round"))
                logger.info(f"round {number + 1} of {rounds}: {worker.contender.name}, {outcome.seconds[-1]:.1f} s")
            now = time.monotonic()
            if number + 1 < rounds and now + (now - round_began) - began > seconds_at_most:
                logger.info(f"{number + 1} of {rounds} rounds are all that the time allows.")
                break
        for worker, outcome in zip(workers, outcomes, strict=True):
            outcome.padding_share = worker.call("padding_share")
            outcome.peak_memory_mb = worker.call("peak_memory_mb")
    return outcomes


def require_same_task(outcomes: Sequence[Outcome]) -> None:
    """Refuse (UserError) contenders that do not compute what the first one computes, or not on the same documents."""
    first = outcomes[0]
    for outcome in outcomes[1:]:
        tolerance = max(TOLERANCE[first.precision], TOLERANCE[outcome.precision])
        if not abs(outcome.first_loss - first.first_loss) <= tolerance * first.first_loss:  # so that NaN is refused
            raise UserError(
                f"The first batch's loss is {outcome.first_loss:.6f} for {outcome.contender.name} and "
                f"{first.first_loss:.6f} for {first.contender.name}: they do not compute the same."
            )
        if (outcome.num_documents, outcome.num_tokens) != (first.num_documents, first.num_tokens):
            raise UserError(f"{outcome.contender.name} and {first.contender.name} did not get the same documents.")
