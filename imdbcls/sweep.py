"""The jobs of a multirun, each in a process of its own: one that raises, exits or is killed leaves the others running.

Job processes are forked from the sweep's, which has done the imports and read the documents, so a further job starts at
once. The sweep's own process computes nothing: forking a process that has started compute threads would be unsafe.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imdbcls.console import say
from imdbcls.errors import UserError
from imdbcls.signals import SIGNALS, Interrupted, stop_requests

_PR_SET_PDEATHSIG = 1
_MAX_REASON_BYTES = 2000


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

    def run(
        self,
        name: str,
        prepare: Callable[[], object],
        job: Callable[[], object],
        read_result: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        """Prepare a job here, run it in a forked process and wait for it.

        A signal is passed on to the job and ends the sweep after it. Whatever goes wrong is an outcome: nothing is
        raised, so that the next job runs.
        """
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not begun", "the sweep was stopped before"))
            return
        try:
            with stop_requests() as stop, stop.at_once():
                prepare()
        except Interrupted as interrupted:
            self.stopped_by = stop.signal_number
            self.outcomes.append(Outcome(name, "interrupted", str(interrupted)))
            return
        except (Exception, SystemExit) as error:
            self.failed(name, error)
            return
        status, reason = self._fork(job)
        self.outcomes.append(outcome_of(name, os.waitstatus_to_exitcode(status), reason, read_result()))

    def failed(self, name: str, error: BaseException) -> None:
        """Record a job that never began, and print why."""
        tell(error)
        self.outcomes.append(Outcome(name, "failed", reason_of(error)))

    def _fork(self, job: Callable[[], object]) -> tuple[int, str]:
        """The wait status of a job's process and the error it told in one line, empty where it told none."""
        sys.stdout.flush()
        sys.stderr.flush()
        told, telling = os.pipe()
        parent = os.getpid()
        # No signal may come between the fork and the moment it can be passed on.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        child = os.fork()
        if child == 0:
            os.close(told)
            die_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os._exit(exit_code_of(job, telling))
        os.close(telling)
        self._child = child
        previous = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        try:
            _, status = os.waitpid(child, 0)
        finally:
            self._child = None
            for number, handler in previous.items():
                signal.signal(number, handler)
        os.set_blocking(told, False)  # whatever the job left running may hold the other end open
        with open(told, "rb", buffering=0) as pipe:
            reason = (pipe.read(_MAX_REASON_BYTES) or b"").decode(errors="replace")
        return status, reason

    def _pass_on(self, number: int, _frame: object) -> None:
        self.stopped_by = number
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment
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
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if undone else 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: a killed sweep leaves no job behind. Only on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def exit_code_of(job: Callable[[], object], telling: int) -> int:
    """Run a job to the end of its process; its error is printed here, where its traceback is, and told to the sweep."""
    try:
        job()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException as error:
        tell(error)
        os.write(telling, reason_of(error).encode()[:_MAX_REASON_BYTES])
        code = 2 if isinstance(error, UserError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def tell(error: BaseException) -> None:
    if isinstance(error, UserError):
        say(f"imdbcls: {error}")
    else:
        traceback.print_exception(error)


def reason_of(error: BaseException) -> str:
    """An error in one line: the sentence of a user's mistake, else with its type."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def outcome_of(name: str, exit_code: int, reason: str, result: Mapping[str, Any] | None) -> Outcome:
    if exit_code == 0 and result is not None and result.get("status") == "done":
        return Outcome(name, "done", f"validation {result['val/accuracy']:.2%}  test {result['test/accuracy']:.2%}")
    if exit_code < 0:
        return Outcome(name, "killed", f"by {signal.Signals(-exit_code).name}")
    if reason:
        return Outcome(name, "failed", reason)
    if result is not None and result.get("status") == "interrupted":
        return Outcome(name, "interrupted", result["error"])
    return Outcome(name, "failed", f"exit code {exit_code}")
