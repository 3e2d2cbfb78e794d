"""The jobs of a multirun, each in a process of its own: one that raises, exits or is killed leaves the others running.

Job processes are forked from the sweep's, which has done the imports and read the documents, so a further job starts at
once; several may run side by side. The sweep's own process computes nothing: forking a process that has started compute
threads would be unsafe.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.record import problem_of_result
from imdbcls.runtime import limits
from imdbcls.runtime.console import say
from imdbcls.runtime.signals import SIGNALS, Interrupted, handle_by, handlers, stop_requests

_PR_SET_PDEATHSIG = 1
_MAX_REASON_BYTES = 2000
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is done, failed, interrupted, killed or not begun, until then running.

    `detail` is its result or its error in one line.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Running:
    """A job's process: its place among the outcomes, the pipe on which it tells its error, and who reads its result."""

    place: int
    told: int
    read_result: Callable[[], Mapping[str, Any] | None]


class Sweep:
    """The outcomes of a multirun's jobs, in their order."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.studies: set[Path] = set()  # the folders of what the jobs are runs of
        self.stopped_by: int | None = None
        self._running: dict[int, Running] = {}  # by process id
        self._handlers: dict[int, Any] = {}  # the signals' own, from before the first process

    def run(
        self,
        name: str,
        prepare: Callable[[], object],
        job: Callable[[], object],
        read_result: Callable[[], Mapping[str, Any] | None],
        jobs: int = 1,
    ) -> None:
        """Prepare a job here, start it in a forked process, and wait until fewer than `jobs` of them run.

        A signal is passed on to the processes and ends the sweep after them. Whatever goes wrong is an outcome: nothing
        is raised, so that the next job runs.
        """
        if any(self.outcomes[running.place].name == name for running in self._running.values()):
            self._wait(fewer_than=1)  # the same run once more: it will be found done
        if self.stopped_by is None and not self._prepared(name, prepare):
            return
        self._start(name, job, read_result)
        self._wait(fewer_than=jobs)

    def report(self, name: str, job: Callable[[], object], read_result: Callable[[], Mapping[str, Any] | None]) -> None:
        """Run a job in this process; a job that is already done logs that and computes nothing."""
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not begun", "the sweep was stopped before"))
            return
        try:
            job()
        except (Exception, SystemExit) as error:
            self.failed(name, error)
        else:
            self.outcomes.append(outcome_of(name, 0, "", read_result()))

    def failed(self, name: str, error: BaseException) -> None:
        """Record a job that never began, and print why."""
        error = limits.explain(error) or error
        tell(error)
        self.outcomes.append(Outcome(name, "failed", reason_of(error)))

    def _prepared(self, name: str, prepare: Callable[[], object]) -> bool:
        """Whether preparing went well; else its outcome is recorded."""
        with stop_requests() as stop:
            try:
                with stop.at_once():
                    prepare()
                went_well = True
            except Interrupted as interrupted:
                self.outcomes.append(Outcome(name, "interrupted", str(interrupted)))
                went_well = False
            except (Exception, SystemExit) as error:
                self.failed(name, error)
                went_well = False
        if stop.signal_number is not None:
            self._pass_on(stop.signal_number, None)
        return went_well

    def _start(self, name: str, job: Callable[[], object], read_result: Callable[[], Mapping[str, Any] | None]) -> None:
        """Fork a process for a job, unless a signal has come."""
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._handlers:
            self._handlers = handlers()
            handle_by(dict.fromkeys(self._handlers, self._pass_on))
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not begun", "the sweep was stopped before"))
            return
        told, telling = os.pipe()
        parent = os.getpid()
        # Until the job's process has handlers of its own, a signal that reaches it would run this process's.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            child = os.fork()
            if child == 0:
                code = 1
                try:  # whatever happens, this process must not go on with the sweep
                    handle_by(self._handlers)
                    for other in (told, *(running.told for running in self._running.values())):
                        os.close(other)
                    die_with(parent)
                    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
                    code = exit_code_of(job, telling)
                finally:
                    os._exit(code)
            self._running[child] = Running(len(self.outcomes), told, read_result)
            self.outcomes.append(Outcome(name, "running", ""))
        except OSError as error:  # no memory or no process to be had
            os.close(told)
            self.failed(name, error)
        finally:
            os.close(telling)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if self.stopped_by is not None:  # since the look at it; another thread may have taken the signal in
            self._pass_on(self.stopped_by, None)

    def _wait(self, fewer_than: int) -> None:
        """Wait for processes to end until so few run, and record how they ended."""
        while len(self._running) >= fewer_than:
            process, status = self._next_end()
            running = self._running.pop(process)
            os.set_blocking(running.told, False)  # whatever the job left running may hold the other end open
            with open(running.told, "rb", buffering=0) as pipe:
                reason = (pipe.read(_MAX_REASON_BYTES) or b"").decode(errors="replace")
            name, exit_code = self.outcomes[running.place].name, os.waitstatus_to_exitcode(status)
            self.outcomes[running.place] = outcome_of(name, exit_code, reason, running.read_result())
        if not self._running:
            handle_by(self._handlers)
            self._handlers = {}

    def _next_end(self) -> tuple[int, int]:
        """The next process to end and its wait status. Other children are left alone: a library waits for its own."""
        if len(self._running) == 1:
            return os.waitpid(next(iter(self._running)), 0)
        while True:
            for process in self._running:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    return ended, status
            time.sleep(_POLL_SECONDS)

    def _pass_on(self, number: int, _frame: object) -> None:
        self.stopped_by = number
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment
                os.kill(process, number)

    def conclude(self) -> int:
        """Wait for the last jobs, print the table of all, and return the exit code: 0 where each is done."""
        self._wait(fewer_than=1)
        if not self.outcomes:
            return 0
        width = max(len(outcome.name) for outcome in self.outcomes)
        say("")
        for outcome in self.outcomes:
            say(f"{outcome.name:<{width}}  {outcome.state:<11}  {outcome.detail}")
        undone = sum(outcome.state != "done" for outcome in self.outcomes)
        if undone:
            say(f"{undone} of {len(self.outcomes)} runs are not done; the same command runs what is missing.")
        elif len(self.outcomes) > 1:
            for study in sorted(self.studies):
                say(f"compare them: python -m imdbcls.compare {study}")
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
        told = limits.explain(error) or error
        tell(told)
        os.write(telling, reason_of(told).encode()[:_MAX_REASON_BYTES])
        code = 2 if isinstance(told, UserError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def tell(error: BaseException) -> None:
    if isinstance(error, UserError):
        say(f"imdbcls: {error}")
    else:
        say("".join(traceback.format_exception(error)).rstrip())


def reason_of(error: BaseException) -> str:
    """An error in one line: the sentence of a user's mistake, else with its type."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def outcome_of(name: str, exit_code: int, reason: str, result: Mapping[str, Any] | None) -> Outcome:
    if exit_code == 0 and result is not None and problem_of_result(result) is None:
        return Outcome(name, "done", f"validation {result['val/accuracy']:.2%}  test {result['test/accuracy']:.2%}")
    if exit_code < 0:
        return Outcome(name, "killed", f"by {signal.Signals(-exit_code).name}")
    if reason:
        return Outcome(name, "failed", reason)
    if result is not None and result.get("status") == "interrupted":
        return Outcome(name, "interrupted", str(result.get("error", "")))
    return Outcome(name, "failed", f"exit code {exit_code}")
