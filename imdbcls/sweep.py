"""The jobs of a multirun, each in a process of its own: one that raises, exits or is killed leaves the others running.

Job processes are forked from the sweep's, which has done the imports and read the documents, so a further job starts at
once. The sweep's own process computes nothing: forking a process that has started compute threads would be unsafe.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imdbcls.console import say
from imdbcls.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is done, failed, interrupted or killed; `detail` its result or its error in one line."""

    name: str
    state: str
    detail: str


class Sweep:
    """The outcomes of a multirun's jobs, in their order."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.stopped_by: int | None = None
        self._child: int | None = None

    def run(self, name: str, job: Callable[[], object], read_result: Callable[[], Mapping[str, Any] | None]) -> None:
        """Run a job in a forked process and wait for it; a signal is passed on to it and ends the sweep after it."""
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not begun", "the sweep was stopped before"))
            return
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os._exit(exit_code_of(job))
        forwarded = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        self._child = child
        previous = {number: signal.signal(number, self._pass_on) for number in forwarded}
        try:
            _, status = os.waitpid(child, 0)
        finally:
            self._child = None
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.outcomes.append(outcome_of(name, os.waitstatus_to_exitcode(status), read_result()))

    def refuse(self, name: str, error: UserError) -> None:
        """Note a job that cannot be begun; the others are not its business."""
        self.outcomes.append(Outcome(name, "failed", str(error).splitlines()[0]))

    def _pass_on(self, number: int, _frame: object) -> None:
        self.stopped_by = number
        if self._child is not None:
            os.kill(self._child, number)

    def conclude(self) -> int:
        """Print the table of all jobs and return the exit code: non-zero unless every one is done."""
        if not self.outcomes:
            return 0
        width = max(len(outcome.name) for outcome in self.outcomes)
        say("")
        for outcome in self.outcomes:
            say(f"{outcome.name:<{width}}  {outcome.state:<11}  {outcome.detail}")
        undone = sum(outcome.state != "done" for outcome in self.outcomes)
        if undone:
            say(f"{undone} of {len(self.outcomes)} runs are not done; the same command runs what is missing.")
        return 1 if undone else 0


def exit_code_of(job: Callable[[], object]) -> int:
    """Run a job to the end of its process; errors are printed here, where their traceback is."""
    try:
        job()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except UserError as error:
        say(f"imdbcls: {error}")
        code = 2
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def outcome_of(name: str, exit_code: int, result: Mapping[str, Any] | None) -> Outcome:
    if exit_code == 0 and result is not None and result["status"] == "done":
        return Outcome(name, "done", f"validation {result['val/accuracy']:.2%}  test {result['test/accuracy']:.2%}")
    if exit_code < 0:
        return Outcome(name, "killed", f"by {signal.Signals(-exit_code).name}")
    if result is not None and result["status"] in ("failed", "interrupted"):
        return Outcome(name, result["status"], result["error"])
    return Outcome(name, "failed", f"exit code {exit_code}")
