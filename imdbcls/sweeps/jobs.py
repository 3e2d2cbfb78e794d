"""Run the jobs of a multirun in separate processes. If a job raises, exits or is killed, the other jobs still run.

The sweep's process imports all modules and reads the documents, and then forks the jobs, which therefore start
immediately. Several jobs can run in parallel, and a live table shows them on a terminal. The sweep's process itself
does no computation, because forking a process with compute threads is unsafe.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runs.record import problem_of_result, problem_of_trial
from imdbcls.runs.selection import DEFAULT, TITLES, as_text, metric_of
from imdbcls.runtime import console, limits
from imdbcls.runtime.signals import SIGNALS, Interrupted, current_handlers, set_handlers, stop_requests
from imdbcls.runtime.text_table import text_table
from imdbcls.sweeps.live_table import LiveTable, RunningJob, RunProgress
from imdbcls.sweeps.overview import JobMessages, SharedMessages, end_line, label, seconds_left

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_MAX_REASON_BYTES = 2000
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    `state` is running, done, pruned, failed, interrupted, stopped, killed, not started or no result.

    `detail` is one line: the validation and test metric of a finished run (only validation for a trial), or the reason
    why a run is not done. It is empty for a running job. `seconds` is the wall time of the job's process; None if it
    was not started or is still running. `share` is the job's share of the wall time: while n jobs run, each has 1 / n.
    """

    name: str
    state: str
    detail: str
    seconds: float | None = None
    share: float | None = None  # None if `seconds` is None, and for jobs on a cluster


@dataclass(frozen=True)
class Running:
    """A running job."""

    index: int  # index of the job in `Sweep.outcomes`
    slot: int  # number of the job among the jobs that run at the same time
    error_pipe: int  # file descriptor from which the error of the job is read
    read_result: Callable[[], Mapping[str, Any] | None]
    started: float  # time of the start, by `time.monotonic`
    progress: RunProgress | None  # shown in the live table; None: not shown


class Sweep:
    """The jobs of a multirun: the running processes, and the outcomes in the order of the jobs."""

    def __init__(self, messages: SharedMessages | None = None, *, is_tuning: bool = False) -> None:
        """Begin a sweep. It does not repeat `messages`, which an earlier sweep has shown."""
        self.is_tuning = is_tuning  # whether the jobs are trials; `Tuning` then logs how each of them ended
        self.outcomes: list[Outcome] = []
        self.studies: dict[Path, Config] = {}  # the config of one job of each study, by study folder
        self.study_of: dict[int, Path] = {}  # the study folder of a job, if known, by the job's index in `outcomes`
        self.is_search = False  # whether a sweeper chooses the jobs by the results of earlier jobs
        self.stopped_by: int | None = None
        self.num_expected = 0  # number of jobs that Hydra's sweeper or a study has planned so far; 0: unknown
        self.messages = messages  # None: no job has started
        self._table: LiveTable | None = None  # created with the first of several parallel jobs on a terminal
        self.slot = 0  # in the process of a job: its number among the jobs that run at the same time
        self._jobs = 1  # the largest number of jobs that run at the same time
        self._running: dict[int, Running] = {}  # by process id
        self._shares: dict[int, float] = {}  # `Outcome.share` of each running job until `_shared_until`, by process id
        self._shared_until = 0.0  # a time by `time.monotonic`
        self._handlers: dict[int, Any] = {}  # the signal handlers before the first job was started

    def add_to_study(self, study: Path, config: "Config") -> None:
        """Record that the next job belongs to a study."""
        self.studies[study] = config
        self.study_of[len(self.outcomes)] = study

    @property
    def has_overview(self) -> bool:
        """Whether log lines contain the job's number and the time left.

        False for a search, for trials, for a single job, and if the number of jobs is unknown.
        """
        return self.num_expected > 1 and not self.is_search and not self.is_tuning

    @property
    def num_ended(self) -> int:
        return sum(outcome.state != "running" for outcome in self.outcomes)

    def run(
        self,
        name: str,
        prepare: Callable[[], object],
        job: Callable[[], object],
        read_result: Callable[[], Mapping[str, Any] | None],
        jobs: int = 1,
        progress: RunProgress | None = None,
    ) -> None:
        """Call `prepare` in this process, fork a process for the job, and wait until fewer than `jobs` processes run.

        A signal is forwarded to all job processes, and the sweep stops when they have ended. An error is not raised but
        recorded as the job's outcome, so that the next job runs.

        On a terminal, parallel jobs with `progress` are shown in a live table.
        """
        if any(self.outcomes[running.index].name == name for running in self._running.values()):
            self.wait()  # the same run is in progress: wait, so that it is finished when this job starts
        if self.stopped_by is None and not self._prepared(name, prepare):
            return
        self._jobs = jobs
        self._start(name, job, read_result, jobs, progress)
        self._wait(fewer_than=jobs)

    def report(self, name: str, job: Callable[[], object], read_result: Callable[[], Mapping[str, Any] | None]) -> None:
        """Run the job of a finished run in this process. The job only logs that the run is finished."""
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not started", "the sweep was stopped"))
            return
        try:
            job()
        except (Exception, SystemExit) as error:
            self.failed(name, error)
        else:
            self.outcomes.append(outcome_of(name, 0, "", read_result()))

    def failed(self, name: str, error: BaseException) -> None:
        """Log an error that occurred in this process, not in the job's own process. Record the job as failed."""
        self.outcomes.append(Outcome(name, "failed", reason_of(log_error(error))))

    def _prepared(self, name: str, prepare: Callable[[], object]) -> bool:
        """Prepare a job and return True. If that fails, record the outcome and return False."""
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

    def _start(
        self,
        name: str,
        job: Callable[[], object],
        read_result: Callable[[], Mapping[str, Any] | None],
        jobs: int,
        progress: RunProgress | None,
    ) -> None:
        """Fork a process for one of `jobs` parallel jobs, unless a signal has stopped the sweep."""
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._handlers:
            self._handlers = current_handlers()
            set_handlers(dict.fromkeys(self._handlers, self._forward_signal))
        if self.stopped_by is not None:
            self.outcomes.append(Outcome(name, "not started", "the sweep was stopped"))
            return
        if self._table is None and jobs > 1 and progress is not None:
            self._table = LiveTable() if console.is_terminal() and console.shows_messages() else None
        messages = self.messages = self.messages or SharedMessages()
        console.erase()  # the child process must not inherit a table
        error_pipe, error_input = os.pipe()
        used = {running.slot for running in self._running.values()}
        slot = next(number for number in range(len(used) + 1) if number not in used)
        parent = os.getpid()
        # The child process inherits the sweep's handlers. Block signals until it has replaced these handlers.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            child = os.fork()
            if child == 0:
                code = 1
                try:  # after any exception, the `finally` stops the child process from continuing the sweep
                    set_handlers(self._handlers)
                    for other in (error_pipe, *(running.error_pipe for running in self._running.values())):
                        os.close(other)
                    set_parent_death_signal(parent)
                    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
                    if self._table is not None:
                        self._table.redirect_stderr()
                    self.slot = slot
                    console.show_only(JobMessages(messages, self.has_overview or self.is_tuning))
                    code = exit_code_of(job, error_input)
                finally:
                    os._exit(code)
            if self.has_overview and jobs == 1:
                logger.info(f"{label(self.num_ended + 1, self.num_expected)} {name}")
            self._share_time()
            self._running[child] = Running(
                len(self.outcomes), slot, error_pipe, read_result, self._shared_until, progress
            )
            self._shares[child] = 0.0
            self.outcomes.append(Outcome(name, "running", ""))
            if self._table is not None:
                self._table.paint(self._shown_jobs())
        except OSError as error:  # no memory or process is available
            os.close(error_pipe)
            self.failed(name, error)
        finally:
            os.close(error_input)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if self.stopped_by is not None:  # a signal arrived after the check above, perhaps in another thread
            self._forward_signal(self.stopped_by, None)

    def wait(self) -> None:
        """Wait for all running jobs."""
        self._wait(fewer_than=1)

    def _wait(self, fewer_than: int) -> None:
        """Wait until fewer than `fewer_than` job processes run. Record and log the outcome of each job that ends."""
        while len(self._running) >= fewer_than:
            process, status = self._wait_for_one()
            self._share_time()
            running = self._running.pop(process)
            if self._table is not None:
                self._table.relay()
                self._table.paint(self._shown_jobs())
            seconds, share = self._shared_until - running.started, self._shares.pop(process)
            # Reading must not block: the job may have left a child process that still has the pipe open for writing.
            os.set_blocking(running.error_pipe, False)
            with open(running.error_pipe, "rb", buffering=0) as pipe:
                reason = (pipe.read(_MAX_REASON_BYTES) or b"").decode(errors="replace")
            name, exit_code = self.outcomes[running.index].name, os.waitstatus_to_exitcode(status)
            outcome = outcome_of(name, exit_code, reason, running.read_result())
            self.outcomes[running.index] = replace(outcome, seconds=seconds, share=share)
            if self.has_overview:
                self._log_end(running.index)
        if not self._running:
            set_handlers(self._handlers)
            self._handlers = {}

    def _share_time(self) -> None:
        """Divide the time since the last call between the running jobs."""
        now = time.monotonic()
        for process in self._running:
            self._shares[process] += (now - self._shared_until) / len(self._running)
        self._shared_until = now

    def _log_end(self, index: int) -> None:
        """Log how a job has ended, and the expected time until the sweep ends."""
        outcome = self.outcomes[index]
        times = [each.seconds for each in self.outcomes if each.seconds is not None and each.state == "done"]
        num_left = self.num_expected - self.num_ended
        left = None if self.stopped_by is not None else seconds_left(times, num_left, self._jobs)
        detail = outcome.detail if outcome.state == "done" else f"{outcome.state}  {outcome.detail}".rstrip()
        number = label(self.num_ended, self.num_expected)
        logger.info(end_line(number, outcome.name, detail, outcome.seconds or 0.0, left))

    def _shown_jobs(self) -> list[RunningJob]:
        return [
            RunningJob(self.outcomes[job.index].name, job.progress, job.started)
            for job in self._running.values()
            if job.progress is not None
        ]

    def _wait_for_one(self) -> tuple[int, int]:
        """Wait for one of the jobs to end, and return its process id and wait status.

        Only the jobs' process ids are polled, because libraries may have started other child processes.
        """
        if len(self._running) == 1 and self._table is None:
            return os.waitpid(next(iter(self._running)), 0)
        while True:
            for process in self._running:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    return ended, status
            if self._table is None:
                time.sleep(_POLL_SECONDS)
            else:
                self._table.wait(_POLL_SECONDS, self._shown_jobs())

    def _forward_signal(self, number: int, _frame: object) -> None:
        self.stopped_by = number
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):  # the process has just ended
                os.kill(process, number)

    def conclude(self) -> int:
        """Wait for the remaining jobs, log a table of the outcomes (not for trials), and return the exit code.

        The exit code is 0 if all jobs are done or pruned and no signal stopped the sweep.
        """
        self.wait()
        if self._table is not None:
            self._table.close()
            self._table = None
        if not self.outcomes:
            return 0
        undone = sum(outcome.state not in ("done", "pruned") for outcome in self.outcomes)
        if not self.is_tuning:
            self._log_outcomes(undone)
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if undone else 0

    def _log_outcomes(self, undone: int) -> None:
        """Log a table of all outcomes and what to do next."""
        rows = [(outcome.name, outcome.state, outcome.detail) for outcome in self.outcomes]
        logger.info("")
        if sum(outcome.state == "done" for outcome in self.outcomes) > 1:
            logger.info("Choose a configuration by its validation score. Use the test scores only to compare groups.")
        for line in text_table(rows, num_text_columns=3, width=console.columns_of(sys.stderr)).splitlines():
            logger.info(line)
        if undone:
            remedy = (
                "If the sampler has a seed, the same command proposes these runs again and trains the missing ones."
                if self.is_search
                else "Run the same command again for the missing runs."
            )
            logger.info(f"{undone} of {len(self.outcomes)} runs are not done. {remedy}")
        elif len(self.outcomes) > 1 and not self.is_search:
            for study in sorted(self.studies):
                logger.info(f"Compare the runs: python -m imdbcls.compare {study}")


def set_parent_death_signal(parent: int) -> None:
    """Make the kernel kill this process when its parent dies, so that a killed sweep leaves no jobs. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def exit_code_of(job: Callable[[], object], error_input: int) -> int:
    """Run a job in this process and return its exit code.

    If the job raises an error, log it, and write its first line to the file descriptor `error_input`.
    """
    try:
        job()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException as error:
        explained = log_error(error)
        os.write(error_input, reason_of(explained).encode()[:_MAX_REASON_BYTES])
        code = 2 if isinstance(explained, UserError) else 1
    console.erase()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def log_error(error: BaseException) -> BaseException:
    """Log the message of a UserError, and the traceback of any other error. Return the error.

    If a limit of the machine, such as a full disk, caused the error, log and return the UserError that explains it.
    """
    error = limits.explain(error) or error
    if isinstance(error, UserError):
        logger.error(str(error))
    else:
        logger.critical("unexpected error", exc_info=error)
    return error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message. Put the error's type before it, except for a UserError."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def outcome_of(name: str, exit_code: int, reason: str, result: Mapping[str, Any] | None) -> Outcome:
    """Return a job's outcome from its exit code, the error that it reported, and the content of its `result.json`."""
    if exit_code == 0 and result is not None and problem_of_result(result) is None:
        metric = metric_of(result)
        title = "" if metric == DEFAULT else f" {TITLES[metric]}"
        validation, test = (as_text(metric, result.get(f"{split}/{metric}")) for split in ("val", "test"))
        return Outcome(name, "done", f"validation{title} {validation}  test{title} {test}")
    if exit_code == 0 and result is not None and problem_of_trial(result) is None:
        return outcome_of_trial(name, result)
    if exit_code < 0:
        return Outcome(name, "killed", f"by {signal.Signals(-exit_code).name}")
    if reason:
        return Outcome(name, "failed", reason)
    if result is not None and result.get("status") in ("interrupted", "stopped"):
        return Outcome(name, str(result["status"]), str(result.get("error", "")).removeprefix("Interrupted: "))
    return Outcome(name, "failed", f"exit code {exit_code}")


def outcome_of_trial(name: str, result: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a finished or pruned trial of a tuning study."""
    metric = metric_of(result)
    title = "" if metric == DEFAULT else f" {TITLES[metric]}"
    detail = f"validation{title} {as_text(metric, result[f'val/{metric}'])}"
    if result["status"] == "trial":
        return Outcome(name, "done", detail)
    return Outcome(name, "pruned", f"{detail}  after epoch {result.get('epochs')}")
