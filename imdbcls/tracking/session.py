"""Open and close a W&B run, online or offline, within a time limit, even if W&B hangs."""

import contextlib
import glob
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from imdbcls.config.choices import TrackerMode
from imdbcls.errors import UserError
from imdbcls.runtime.waiting import is_reachable, within
from imdbcls.tracking import environment
from imdbcls.tracking.protocol import RunIdentity
from imdbcls.tracking.reasons import first_line
from imdbcls.tracking.server import PROBE_SECONDS, set_environment, stop_helper, why_not_online
from imdbcls.tracking.stopping import StopFlag

logger = logging.getLogger(__name__)

# The last part of a warning about a failure of W&B, by job type.
UNAFFECTED = {
    "train": "the run continues and is recorded in its folder",
    "comparison": "the files of the comparison are still written",
}


class Session:
    """A W&B run. Between `open` and `close`, `run` is the `wandb.Run`, or None if the run was not started.

    The arguments have the same meaning as in `WandbTracker`, with two exceptions. If `resume` is true, the session
    continues an earlier W&B run with the same id. If the run is logged offline, a message says so and ends with
    `offline_hint`. By default, this hint says how to view and upload the log.
    """

    def __init__(
        self,
        identity: RunIdentity,
        config: Mapping[str, Any],
        folder: Path,
        *,
        resume: bool,
        mode: TrackerMode,
        project: str | None,
        entity: str | None,
        connect_seconds: float,
        finish_seconds: float,
        tags: Sequence[str] = (),
        notes: str | None = None,
        offline_hint: str | None = None,
    ) -> None:
        self.run: Any = None
        self.has_given_hint = False  # whether a message has said how to upload a run that is logged offline
        self._offline_hint = offline_hint
        self._identity = identity
        self._config = dict(config)
        self._folder = folder
        self._resume = resume
        self._mode = environment.mode_of(mode)
        named = environment.resolved({"project": project, "entity": entity, "notes": notes})
        self._project = str(named["project"])
        self._entity, self._notes = named["entity"], named["notes"]
        self._tags = environment.tags_of((*identity.tags, *(tags.split(",") if isinstance(tags, str) else tags)))
        self._id = ""  # set by `open`
        self._connect_seconds = connect_seconds
        self._finish_seconds = finish_seconds
        self.stop = StopFlag()
        self._warned = False
        self._set_variables: list[str] = []

    def open(self) -> None:
        """Start the run, unless the mode is `disabled`. If this fails, log a warning, and `run` stays None.

        Raise UserError if the mode is `online` and no valid key is configured.
        """
        if self._mode == "disabled":
            return
        note = environment.ignored(self._mode)
        if note is not None:
            logger.warning(note)
        try:
            with environment.without_ignored():
                self._open()
        except BaseException as error:
            self.run = None
            self._clean_up()
            if isinstance(error, UserError) or not isinstance(error, Exception):
                raise
            self._warn_once("could not be started", error)

    def close(self, exit_code: int, *, hurried: bool = False) -> None:
        """End the run. With `hurried`, limit the upload to `PROBE_SECONDS`, because the process may be killed soon."""
        try:
            if self.run is not None:
                self._finish(exit_code, PROBE_SECONDS if hurried else self._finish_seconds + 2)
        finally:
            self._clean_up()

    def abandon(self) -> None:
        """Drop a run whose server has stopped answering. Upload nothing, and log no warning."""
        self.run = None
        self._clean_up()

    def log_views(self, views: Mapping[str, Any], patience: float, *, commit: bool = True) -> None:
        """Log tables, plots and pages. If `commit` is false, metrics can still be logged for W&B's current step.

        Raise TimeoutError if the server does not answer, or if logging takes longer than `patience * finish_seconds`.
        """
        # wandb waits for the server when it logs a table, so check first that the server answers.
        if not self.run.offline and not is_reachable(self.run.settings.base_url, patience * self._finish_seconds):
            raise TimeoutError(f"{self.run.settings.base_url} does not answer")
        within(patience * self._finish_seconds, lambda: self.run.log(dict(views), commit=commit))

    def log_console(self, text: str) -> None:
        """Log a message for the `output.log` of the run.

        Offline, the message is logged as if it were captured from stdout, because `wandb leet` does not show lines
        logged by `write_logs`. Online, `write_logs` is used, because wandb drops captured lines if its console capture
        is off.
        """
        if self.run.offline:
            self.run._interface.publish_output_raw("stdout", f"{text}\n", nowait=True)
        else:
            self.run.write_logs(text)

    def log_artifact(self, artifact: Any, aliases: Sequence[str], *, is_input: bool = False) -> None:
        """Log an artifact as an output of the run or, with `is_input`, as data that the run uses.

        The artifact is passed to wandb's helper process, which uploads it or writes it to the offline log. wandb's
        public methods are not used: they wait for the server, and `run.use_artifact` raises an error offline.
        """
        artifact.finalize()

        def publish() -> None:
            self.run._interface.publish_artifact(
                self.run, artifact, list(aliases), is_user_created=is_input, use_after_commit=is_input
            )

        within(PROBE_SECONDS, publish)

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Catch exceptions in the block. Log the first exception of the run as a warning that begins `W&B {what}`."""
        try:
            yield
        except Exception as error:
            self._warn_once(what, error)

    def logs(self) -> Iterator[Path]:
        """Yield the W&B log files of this run. Each process that worked on the run has its own file."""
        return self._folder.glob(f"wandb/*run-*/run-{glob.escape(self._id)}.wandb")

    def _open(self) -> None:
        self._set_variables = set_environment(self._folder.absolute() / "wandb")
        import wandb

        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        mode = self._choose_mode(settings)
        self._id = environment.run_id(self._folder, self._identity.name)
        if mode == "online":
            problem = self._start_online(settings.base_url)
            if problem is not None:
                what = "this run" if self._identity.job_type == "train" else "the comparison"
                logger.warning(f"W&B: {problem}; {what} is logged offline. {self.hint}")
                self.has_given_hint = True
                mode = "offline"
        if mode == "offline":
            self.run = self._start("offline")

    def _choose_mode(self, settings: Any) -> str:
        """Return `online`, `offline` or `disabled`, without sending a request or asking the user for a key.

        The mode `auto` is resolved from WANDB_MODE and the configured key. Raise UserError if the mode is `online` and
        no valid key is configured.
        """
        if self._mode == "offline":
            return "offline"
        mode = environment.current_mode(settings.mode)
        if self._mode == "auto" and mode in ("offline", "disabled"):
            return mode
        problem = why_not_online(settings)
        if problem is None:
            return "online"
        if self._mode == "online":
            raise UserError(
                f"W&B: {problem}. Run `wandb login`, set WANDB_API_KEY, or use the mode auto (for training, "
                "tracker.mode=auto; for a comparison, --wandb-mode auto)."
            )
        logger.info(f"W&B: {problem}, so this run is logged offline. {self.hint}")
        self.has_given_hint = True
        return "offline"

    def _start_online(self, url: str) -> str | None:
        """Start the run on the server. Return None on success, else the reason of the failure."""
        if not is_reachable(url, self._connect_seconds):
            return f"{url} does not answer"
        earlier_logs = set(self.logs())
        try:
            self.run = self._start("online")
        except Exception as error:
            stop_helper()
            for log in set(self.logs()) - earlier_logs:  # viewers would list these empty logs
                shutil.rmtree(log.parent, ignore_errors=True)
            return first_line(error)
        if self._identity.job_type == "train":  # `publish` returns the URL of a comparison
            logger.info(f"W&B: {self.run.url}")
        return None

    def _start(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        in_sweep = environment.in_sweep()  # the agent sets project, entity and id; wandb warns about other values
        return wandb.init(
            mode=mode,
            project=None if in_sweep else self._project,
            entity=None if in_sweep else self._entity,
            group=self._identity.study,
            name=self._identity.name,
            id=None if in_sweep else self._id,
            notes=self._notes,
            job_type=self._identity.job_type,
            tags=self._tags,
            config=self._config,
            dir=str(self._folder),
            # A resumed run continues the W&B run with the same id. Any other run overwrites that W&B run.
            resume="allow" if self._resume else None,
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                stop_fn=self.stop,
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=self._connect_seconds,
                finish_timeout=self._finish_seconds,
                finish_timeout_raises=True,
                # Seconds between two flushes of the log. A killed process loses the records since the last flush.
                x_transaction_log_flush_interval=2.0,
            ),
        )

    def _finish(self, exit_code: int, seconds: float) -> None:
        run, self.run = self.run, None
        try:
            # `within` is needed, because wandb ignores finish_timeout if its helper process hangs.
            within(seconds, lambda: run.finish(exit_code=exit_code))
        except Exception as error:
            if run.offline:
                self._warn_once("could not close its log", error)
            else:
                logger.warning(
                    "W&B: the upload is incomplete. Upload the rest with: "
                    f"wandb sync --include-online {Path(run.dir).parent}"
                )

    @property
    def hint(self) -> str:
        """How to view and upload a run that is logged offline."""
        logs = self._folder / "wandb"
        return self._offline_hint or f"View: wandb leet {logs}   Upload: wandb sync {logs}"

    def _clean_up(self) -> None:
        stop_helper()
        for name in self._set_variables:
            os.environ.pop(name, None)
        self._set_variables = []

    def _warn_once(self, what: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(f"W&B {what} ({first_line(error)}); {UNAFFECTED[self._identity.job_type]}.")
