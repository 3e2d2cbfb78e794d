"""Mirrors a run to Weights & Biases; the run folder stays the record, and nothing here can stop or slow a training.

The only module that imports wandb, and only once a run is opened.
"""

import contextlib
import glob
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from imdbcls.console import say, warn
from imdbcls.errors import UserError

MODES = ("auto", "online", "offline", "disabled")

_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class RunIdentity:
    """What W&B lists a run by; ``name`` is the run folder's name and the W&B id, so that a resumed run continues."""

    study: str
    name: str
    job_type: str
    tags: tuple[str, ...]


class NoTracker:
    """The tracker of a run that is recorded in its folder only."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, point: Mapping[str, float | int]) -> None:
        pass

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        pass

    def finish(self, result: Mapping[str, Any]) -> None:
        pass

    def mark_interrupted(self) -> None:
        pass


class WandbTracker:
    """One W&B run, opened by ``with``; leaving the block by an exception records it as failed.

    ``mode`` is ``auto`` (online where a key is configured, else offline), ``online``, ``offline`` or ``disabled``.
    ``folder`` is the study's folder: W&B writes to ``folder/wandb``. ``resumed_step`` is the optimizer step that a
    resumed run continues from, None for a new run: points that W&B already has are then not sent twice.
    ``connect_seconds`` and ``finish_seconds`` bound what a silent server can cost at the start and at the end.

    A failure of W&B is said once and the training goes on; only ``mode=online`` without a key raises ``UserError``.
    """

    def __init__(
        self,
        *,
        identity: RunIdentity,
        config: Mapping[str, Any],
        folder: Path,
        resumed_step: int | None = None,
        mode: str,
        project: str,
        entity: str | None,
        connect_seconds: float,
        finish_seconds: float,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode} is not known: use one of {', '.join(MODES)}.")
        self._identity = identity
        self._config = dict(config)
        self._folder = folder
        self._resumed_step = resumed_step
        self._mode = mode
        self._project = project
        self._entity = entity
        self._connect_seconds = connect_seconds
        self._finish_seconds = finish_seconds
        self._run: Any = None
        self._sent_step = -1
        self._interrupted = False
        self._warned = False
        self._environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._mode != "disabled":
            try:
                self._open()
            except BaseException as error:
                self._run = None
                self._close()
                if isinstance(error, UserError) or not isinstance(error, Exception):
                    raise
                self._warn_once("could not be started", error)
        return self

    def log(self, point: Mapping[str, float | int]) -> None:
        """Sends one point of ``metrics.jsonl``; returns at once, and drops what W&B already has from an earlier part.

        ``step`` is also W&B's own step, so that local viewers, which know no other axis, draw over it.
        """
        step = int(point["step"])
        if self._run is not None and step > self._sent_step:
            with self._guarded("did not take a point"):
                self._run.log(dict(point), step=step)

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        """Sends the confusion matrix, the scores of each class and the worst mistakes on the test split.

        ``labels`` and ``predictions`` index ``label_names``; ``mistakes`` have ``id``, ``text``, ``label``,
        ``prediction`` and ``probability`` (of the predicted class), the most confident first.
        """
        if self._run is None:
            return
        with self._guarded("did not take the test results"):
            import wandb
            from sklearn.metrics import precision_recall_fscore_support

            run = self._run
            scores = precision_recall_fscore_support(
                labels, predictions, labels=range(len(label_names)), zero_division=0
            )
            for name, values in zip(("precision", "recall", "f1"), scores, strict=False):
                run.summary.update({f"test/{name}/{label_names[c]}": float(value) for c, value in enumerate(values)})
            columns = ["id", "text", "label", "prediction", "probability"]
            views = {
                "view/test_confusion_matrix": wandb.plot.confusion_matrix(
                    y_true=list(labels),
                    preds=list(predictions),
                    class_names=list(label_names),
                    title="Confusion matrix, test split",
                ),
                "view/test_mistakes": wandb.Table([*columns], [[row[name] for name in columns] for row in mistakes]),
            }
            # For a table, wandb asks the server and waits for the answer.
            if not run.offline and not _answers(run.settings.base_url, _PROBE_SECONDS):
                raise TimeoutError(f"{run.settings.base_url} does not answer")
            _within(self._finish_seconds / 2, lambda: run.log(views))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Makes ``result.json`` the run's summary, in place of the last values of the curves that it does not name."""
        if self._run is None:
            return
        with self._guarded("did not take the result"):
            summary = self._run.summary
            for name in list(summary.keys()):
                if name.startswith(("train/", "val/")) and name not in result:
                    del summary[name]
            summary.update(dict(result))

    def mark_interrupted(self) -> None:
        """Records that the run was stopped from outside and may be continued."""
        self._interrupted = True
        if self._run is not None:
            with self._guarded("did not take the interruption"):
                self._run.mark_preempting()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._run is not None:
                self._finish_run(exit_code=int(kind is not None or self._interrupted))
        finally:
            self._close()

    def _finish_run(self, exit_code: int) -> None:
        run, self._run = self._run, None
        try:
            # wandb keeps to finish_timeout by itself, unless its helper process is stuck.
            _within(self._finish_seconds + 2, lambda: run.finish(exit_code=exit_code))
        except Exception as error:
            if run.offline:
                self._warn_once("did not close its log", error)
            else:
                warn(f"W&B: not all was uploaded. Upload the rest: wandb sync --include-online {Path(run.dir).parent}")

    def _open(self) -> None:
        self._set_environment()
        import wandb

        session = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode = self._choose_mode(session)
        self._folder.mkdir(parents=True, exist_ok=True)
        if mode == "online":
            problem = None
            earlier_logs = set(self._logs())
            if _answers(session.base_url, min(_PROBE_SECONDS, self._connect_seconds)):
                try:
                    self._run = self._start("online")
                    say(f"W&B: {self._run.url}")
                except Exception as error:
                    problem = _first_line(error)
                    _stop_helper()
                    for log in set(self._logs()) - earlier_logs:  # empty, but viewers would list it
                        shutil.rmtree(log.parent, ignore_errors=True)
            else:
                problem = f"{session.base_url} does not answer"
            if problem is not None:
                warn(f"W&B: {problem}; this run is logged offline. {self._hint()}")
                mode = "offline"
        if mode == "offline":
            earlier_step = self._earlier_step()
            self._run = self._start("offline")
            self._sent_step = earlier_step
        elif self._run is not None and self._run.resumed:
            self._sent_step = self._run.step - 1

    def _choose_mode(self, session: Any) -> str:
        """``auto`` resolved, without a question to the network or to the user; WANDB_MODE is heard."""
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib import wbauth

        if self._mode == "offline":
            return "offline"
        if self._mode == "auto" and session.mode in ("offline", "disabled"):
            return str(session.mode)
        problem = "no key is configured"
        try:
            if wbauth.authenticate_session(host=session.base_url, source="", prompt=False, update_session=False):
                return "online"
        except AuthenticationError as error:  # a key that no server would take
            problem = _first_line(error)
        if self._mode == "online":
            raise UserError(f"W&B: {problem}: run `wandb login`, set WANDB_API_KEY or use tracker.mode=auto.")
        say(f"W&B: {problem}, so this run is logged offline. {self._hint()}")
        return "offline"

    def _hint(self) -> str:
        logs = self._folder / "wandb"
        return f"Look: wandb leet {logs}   Upload: wandb sync {logs}"

    def _start(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        run = wandb.init(
            mode=mode,
            project=self._project,
            entity=self._entity,
            group=self._identity.study,
            name=self._identity.name,
            id=self._identity.name,
            job_type=self._identity.job_type,
            tags=self._identity.tags,
            config=self._config,
            dir=str(self._folder),
            # A run begun anew takes the place of one with its id; only a resumed one is continued.
            resume=None if self._resumed_step is None else "allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=self._connect_seconds,
                finish_timeout=self._finish_seconds,
                finish_timeout_raises=True,
                # A run killed from outside loses what was not flushed.
                x_transaction_log_flush_interval=2.0,
            ),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _earlier_step(self) -> int:
        """The last step in the logs that earlier processes of this run left here; a killed one's may lack its tail."""
        if self._resumed_step is None:
            return -1
        last_step = -1
        for log in self._logs():
            command = [sys.executable, "-m", "wandb", "leet", "inspect", str(log), "--summary", "--json"]
            try:
                answer = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=True).stdout
                last_step = max(last_step, json.loads(answer)["step"] or -1)
            except (OSError, subprocess.SubprocessError, ValueError, KeyError):
                last_step = max(last_step, self._resumed_step)
        return last_step

    def _logs(self) -> Iterator[Path]:
        """The W&B logs of this run's processes so far."""
        return self._folder.glob(f"wandb/*run-*/run-{glob.escape(self._identity.name)}.wandb")

    def _set_environment(self) -> None:
        wanted = {
            # W&B's reports about its own errors would be sent, and waited for, at exit.
            "WANDB_ERROR_REPORTING": "false",
            # Tables wait for their upload here, not in the home folder.
            "WANDB_DATA_DIR": str(self._folder.absolute() / "wandb"),
        }
        for name, value in wanted.items():
            if name not in os.environ:
                self._environment[name] = value
                os.environ[name] = value

    def _close(self) -> None:
        _stop_helper()
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment.clear()

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._warn_once(what, error)

    def _warn_once(self, what: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warn(f"W&B {what} ({_first_line(error)}); the run goes on and is recorded in its folder.")


Tracker = WandbTracker | NoTracker


def _answers(url: str, seconds: float) -> bool:
    """Whether anything at all answers HTTP there in time; what it answers is for W&B to judge."""

    def ask() -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=seconds).close()

    try:
        _within(seconds, ask)  # the timeout of urlopen does not cover a silent name server
    except urllib.error.URLError as error:
        # A certificate that only wandb is set up to trust is an answer, too.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False
    return True


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Runs the action in a thread; after ``seconds`` the thread is left behind and ``TimeoutError`` is raised."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no end after {seconds:.0f} s")
    if errors:
        raise errors[0]


def _stop_helper() -> None:
    """Ends the wandb-core process that wandb started, by force where it does not end by itself.

    It must not be left to wandb's exit hook, which waits for it without a bound and never runs in a forked job.
    """
    if "wandb" not in sys.modules:
        return
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    with contextlib.suppress(Exception, SystemExit):
        _within(_PROBE_SECONDS, sys.modules["wandb"].teardown)
        return
    process = connection and connection._proc and connection._proc._process
    if process:
        process.kill()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
