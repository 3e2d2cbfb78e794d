"""Mirrors a run to Weights & Biases; the run folder stays the record, and nothing here can stop or slow a training.

The only module that imports wandb, and only once a run is opened.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imdbcls.console import say, warn
from imdbcls.errors import UserError

MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class RunIdentity:
    """What W&B lists a run by; ``name`` is the run folder's name and also the W&B id, so that a resumed run continues."""

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
    resumed run continues from, None for a new run. ``connect_seconds`` and ``finish_seconds`` bound what an
    unreachable server can cost at the start and at the end.

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
        self._exit_code = 0
        self._warned = False

    def __enter__(self) -> Self:
        if self._mode != "disabled":
            try:
                self._open()
            except UserError:
                raise
            except Exception as error:
                self._warn_once("could not be started", error)
        return self

    def log(self, point: Mapping[str, float | int]) -> None:
        """Sends one point of ``metrics.jsonl``; returns at once, and drops what a resumed run has sent before."""
        step = int(point["step"])
        if self._run is None or step <= self._sent_step:
            return
        with _Guard(self, "did not take a point"):
            self._run.log(dict(point), step=step)

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        """Sends the confusion matrix, the scores of each class and the worst mistakes of the test split.

        ``labels`` and ``predictions`` index ``label_names``; ``mistakes`` have ``id``, ``text``, ``label``,
        ``prediction`` and ``probability`` (of the predicted class), the most confident first.
        """
        if self._run is None:
            return
        with _Guard(self, "did not take the test results"):
            import wandb
            from sklearn.metrics import precision_recall_fscore_support

            classes = range(len(label_names))
            scores = precision_recall_fscore_support(labels, predictions, labels=list(classes), zero_division=0)
            per_class = [[label_names[c], *(float(s[c]) for s in scores[:3]), int(scores[3][c])] for c in classes]
            columns = ["id", "text", "label", "prediction", "probability"]
            self._run.log(
                {
                    "test/confusion_matrix": wandb.plot.confusion_matrix(
                        y_true=list(labels), preds=list(predictions), class_names=list(label_names)
                    ),
                    "test/classes": wandb.Table(["label", "precision", "recall", "f1", "documents"], per_class),
                    "test/mistakes": wandb.Table(columns, [[row[c] for c in columns] for row in mistakes]),
                }
            )

    def finish(self, result: Mapping[str, Any]) -> None:
        """Makes ``result.json`` the run's summary."""
        if self._run is None:
            return
        with _Guard(self, "did not take the result"):
            self._run.summary.update(dict(result))

    def mark_interrupted(self) -> None:
        """Records that the run was stopped from outside and may be continued."""
        self._exit_code = 1
        if self._run is None:
            return
        with _Guard(self, "did not take the interruption"):
            self._run.mark_preempting()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None:
            return
        run, self._run = self._run, None
        exit_code = self._exit_code or int(kind is not None)
        try:
            _within(self._finish_seconds + 5, lambda: run.finish(exit_code=exit_code))
        except Exception:
            warn(f"W&B: not everything was uploaded; send the rest with: wandb sync --include-online {run.dir}")
        _shut_down()

    def _open(self) -> None:
        # W&B's own error reports would be sent, and waited for, at exit.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        session = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode = self._mode
        if mode == "auto":
            mode = self._choose_mode(session)
        if mode == "online":
            if not _has_key(session):
                raise UserError(
                    "tracker.mode=online needs a W&B key: run `wandb login`, set WANDB_API_KEY, "
                    "or use tracker.mode=offline."
                )
            if not _answers(session.base_url, self._connect_seconds / 2):
                warn(f"W&B: {session.base_url} does not answer; this run is logged offline. {self._hint()}")
                mode = "offline"
        self._folder.mkdir(parents=True, exist_ok=True)
        if mode == "online":
            try:
                self._run = self._init("online")
                say(f"W&B: {self._run.url}")
            except Exception as error:
                warn(f"W&B: {_first_line(error)}; this run is logged offline. {self._hint()}")
                _shut_down()
                mode = "offline"
        if mode == "offline":
            self._run = self._init("offline")

    def _choose_mode(self, session: Any) -> str:
        if session.mode in ("offline", "disabled"):
            return str(session.mode)
        if _has_key(session):
            return "online"
        say(f"W&B: no key is configured, so this run is logged offline. {self._hint()}")
        return "offline"

    def _hint(self) -> str:
        logs = self._folder / "wandb"
        return f"Look at it: wandb leet {logs}  Upload it: wandb sync {logs}"

    def _init(self, mode: str) -> Any:
        import wandb

        run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=self._project,
            entity=self._entity,
            group=self._identity.study,
            name=self._identity.name,
            id=self._identity.name,
            job_type=self._identity.job_type,
            tags=self._identity.tags,
            config=self._config,
            dir=str(self._folder),
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=self._connect_seconds / 2,
                finish_timeout=self._finish_seconds,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=5.0,
            ),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _warn_once(self, what: str, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            warn(f"W&B {what} ({_first_line(error)}); the run goes on and is recorded in its folder.")


class _Guard:
    """Turns an exception of W&B into one warning."""

    def __init__(self, tracker: WandbTracker, what: str) -> None:
        self._tracker = tracker
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._tracker._warn_once(self._what, error)
        return True


def _has_key(session: Any) -> bool:
    from wandb.sdk.lib import wbauth

    return (
        wbauth.authenticate_session(host=session.base_url, source="imdbcls", prompt=False, update_session=False)
        is not None
    )


def _answers(url: str, seconds: float) -> bool:
    """Whether anything at all answers HTTP there; what it answers is for W&B to judge."""

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass

    try:
        _within(seconds, ask)  # the timeout of urlopen does not cover a name server that is silent
    except OSError:
        return False
    return True


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Runs the action in a thread that is left behind after ``seconds``: then, ``TimeoutError`` is raised."""
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


def _shut_down() -> None:
    """Ends W&B's helper process, by force where it does not end itself."""
    import wandb

    try:
        _within(5, wandb.teardown)
    except BaseException:
        pass


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
