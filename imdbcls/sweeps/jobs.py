"""Run the jobs of a multirun, each in its own process: one that raises, exits or is killed leaves the others running.

Job processes are forked from the sweep's process, which has done the imports and read the documents, so that each job
starts at once; several may run in parallel. The sweep's process computes nothing: forking a process that has started
compute threads would be unsafe.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.record import problem_of_result
from imdbcls.runtime import console, limits
from imdbcls.runtime.signals import SIGNALS, Interrupted, current_handlers, set_handlers, stop_requests
from imdbcls.runtime.text_table import text_table

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_MAX_REASON_BYTES = 2000
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is running, and then done, failed, interrupted, killed or not begun.

    `detail` is its result, or its error in one line.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Running:
    """A job's process: its index among the outcomes, the pipe that its error arrives on, and a reader of its result."""

    index: int
    error_pipe: int
    read_result: Callable[[], Mapping[str, Any] | None]


class Sweep:
    """The jobs of a multirun: their processes, and their outcomes in order."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.studies: set[Path] = set()  # the folders of the jobs' studies
        self.stopped_by: int | None = None
        self._running: dict[int, Running] = {}  # by process id
        self._handlers: dict[int, Any] = {}  # the signal handlers from before the first process

    def run(
        self,
        name: str,
        prepare: Callable[[], object],
        job: Callable[[], object],
        read_result: Callable[[], Mapping[str, Any] | None],
        jobs: int = 1,
    ) -> None:
        """Prepare a job here, start it in a forked process, and wait until fewer than `jobs` of them run.

        A signal is passed on to the processes and ends the sweep after them. An error becomes the job's outcome: it is
        not raised, so that the next job runs.
        """
        if any(self.outcomes[running.index].name == name for running in self._running.values()):
            self._wait(fewer_than=1)  # the same run again: it will be found done
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
        """Record a job that did not start, and log why."""
        error = limits.explain(error) or error
        log_error(error)
        self.outcomes.append(Outcome(name, "failed", reason_of(error)))

    def _prepared(self, name: str, prepare: Callable[[], object]) -> bool:
        """Prepare a job and return True; if that fails, record the outcome and return False."""
        with stop_requests() as stop:
            try:
                with stop.interruptible():
                    prepare()
                prepared = True
            except Interrupted as interrupted:
                self.outcomes.append(Outcome(name, "interrupted", str(interrupted)))
                prepared = False
            except (Exception, SystemExit) as error:
                self.failed(name, error)
                prepared = False
        if stop.signal_number is not None:
            self._forward_signal(stop.signal_number, None)
        return prepared

    def _start(self, name: str, job: Callable[[], object], read_result: Callable[[], Mapping[str, Any] | None]) -> None:
        """Fork a process for a job, unless a signal has arrived."""
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._handlers:
            self._handlers = current_handlers()
            set_handlers(dict.fromkeys(self._handlers, self._forward_signal))
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not begun", "the sweep was stopped before"))
            return
        error_pipe, error_input = os.pipe()
        parent = os.getpid()
        # Until the job's process has its own handlers, a signal to it would run the handlers of the sweep.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            child = os.fork()
            if child == 0:
                code = 1
                try:  # whatever happens, this process must not go on with the sweep
                    set_handlers(self._handlers)
                    for other in (error_pipe, *(running.error_pipe for running in self._running.values())):
                        os.close(other)
                    set_parent_death_signal(parent)
                    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
                    code = exit_code_of(job, error_input)
                finally:
                    os._exit(code)
            self._running[child] = Running(len(self.outcomes), error_pipe, read_result)
            self.outcomes.append(Outcome(name, "running", ""))
        except OSError as error:  # out of memory or of processes
            os.close(error_pipe)
            self.failed(name, error)
        finally:
            os.close(error_input)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if self.stopped_by is not None:  # by a signal since the check above: another thread may have received it
            self._forward_signal(self.stopped_by, None)

    def _wait(self, fewer_than: int) -> None:
        """Wait for processes to end until so few run, and record how they ended."""
        while len(self._running) >= fewer_than:
            process, status = self._next_end()
            running = self._running.pop(process)
            os.set_blocking(running.error_pipe, False)  # a process that the job left running may hold the other end
            with open(running.error_pipe, "rb", buffering=0) as pipe:
                reason = (pipe.read(_MAX_REASON_BYTES) or b"").decode(errors="replace")
            name, exit_code = self.outcomes[running.index].name, os.waitstatus_to_exitcode(status)
            self.outcomes[running.index] = outcome_of(name, exit_code, reason, running.read_result())
        if not self._running:
            set_handlers(self._handlers)
            self._handlers = {}

    def _next_end(self) -> tuple[int, int]:
        """Wait for a process to end; return its id and wait status. Children of libraries are not waited for."""
        if len(self._running) == 1:
            return os.waitpid(next(iter(self._running)), 0)
        while True:
            for process in self._running:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    return ended, status
            time.sleep(_POLL_SECONDS)

    def _forward_signal(self, number: int, _frame: object) -> None:
        self.stopped_by = number
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process, number)

    def conclude(self) -> int:
        """Wait for the last jobs, log a table of all, and return the exit code: 0 if each is done."""
        self._wait(fewer_than=1)
        if not self.outcomes:
            return 0
        rows = [(outcome.name, outcome.state, outcome.detail) for outcome in self.outcomes]
        logger.info("")
        for line in text_table(rows, num_text_columns=3, width=console.columns_of(sys.stderr)).splitlines():
            logger.info(line)
        undone = sum(outcome.state != "done" for outcome in self.outcomes)
        if undone:
            logger.info(f"{undone} of {len(self.outcomes)} runs are not done; the same command runs what is missing.")
        elif len(self.outcomes) > 1:
            for study in sorted(self.studies):
                logger.info(f"compare them: python -m imdbcls.compare {study}")
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if undone else 0


def set_parent_death_signal(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: a killed sweep leaves no job behind. Only on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def exit_code_of(job: Callable[[], object], error_input: int) -> int:
    """Run a job in its process and return the exit code; log its error, and write it to the pipe in one line."""
    try:
        job()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException as error:
        explained = limits.explain(error) or error
        log_error(explained)
        os.write(error_input, reason_of(explained).encode()[:_MAX_REASON_BYTES])
        code = 2 if isinstance(explained, UserError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def log_error(error: BaseException) -> None:
    """Log a user's mistake in its sentence, and any other error with its traceback."""
    if isinstance(error, UserError):
        logger.error(str(error))
    else:
        logger.critical("unexpected error", exc_info=error)


def reason_of(error: BaseException) -> str:
    """Return an error in one line: the sentence of a user's mistake; any other error with its type."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def outcome_of(name: str, exit_code: int, reason: str, result: Mapping[str, Any] | None) -> Outcome:
    """Return the outcome of a process from its exit code, its reported error, and the content of its `result.json`."""
    if exit_code == 0 and result is not None and problem_of_result(result) is None:
        return Outcome(name, "done", f"validation {result['val/accuracy']:.2%}  test {result['test/accuracy']:.2%}")
    if exit_code < 0:
        return Outcome(name, "killed", f"by {signal.Signals(-exit_code).name}")
    if reason:
        return Outcome(name, "failed", reason)
    if result is not None and result.get("status") == "interrupted":
        return Outcome(name, "interrupted", str(result.get("error", "")))
    return Outcome(name, "failed", f"exit code {exit_code}")
