"""`tracker=mlflow`: log a run to an MLflow server, or to a local file in `runs/<study>/mlflow/`."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

from annotated_types import Ge, Unit

from imdbcls.config.choices import TrackerMode
from imdbcls.config.packages import installed_version
from imdbcls.errors import UserError
from imdbcls.runs.metrics_log import read_points
from imdbcls.runtime.signals import Interrupted
from imdbcls.runtime.waiting import is_reachable, within
from imdbcls.tracking.in_order import InOrder
from imdbcls.tracking.pages import confusion_table, final_metrics, flat, mistakes_table
from imdbcls.tracking.protocol import RunIdentity, Table, Tracker
from imdbcls.tracking.reasons import first_line, without_password

if TYPE_CHECKING:
    from imdbcls.tracking.mlflow_run import MlflowRun

logger = logging.getLogger(__name__)

IMPORTED_LATER = ("imdbcls.tracking.mlflow_run",)
PROJECT = "imdbcls"
SERVER = "MLFLOW_TRACKING_URI"
INTERRUPTED_SECONDS = 5.0  # a process that received a signal may be killed soon
ARTIFACTS = ("config.yaml", "result.json", "metrics.jsonl", "predictions/test.parquet")
# Config keys that are logged as tags, because MLflow's table of runs shows tags.
AS_TAGS = ("group_hash", "group_label", "git_commit", "command")


class MlflowTracker(Tracker):
    """Log a run to MLflow. The experiment has the name of the project, and the run has the name of the run folder.

    The run is logged to the server or store in MLFLOW_TRACKING_URI. The run is logged to `folder/mlflow/mlflow.db`
    instead if the mode is `offline`, if the mode is `auto` and this variable is not set, or if the server does not
    answer within `connect_seconds`. `folder` is the study's folder.

    A resumed run continues its MLflow run, and each step is logged once. `project` defaults to the value of
    MLFLOW_EXPERIMENT_NAME, or to `imdbcls` if this variable is not set.

    After the start, a background thread sends all requests, so a slow server does not delay training. The end of the
    run waits for this thread for at most `finish_seconds`. Raise UserError if `mode` is `online` and
    MLFLOW_TRACKING_URI is not set.
    """

    def __init__(
        self,
        *,
        identity: RunIdentity,
        config: Mapping[str, Any],
        folder: Path,
        mode: TrackerMode,
        resumed_step: int | None = None,
        project: str | None = None,
        tags: Sequence[object] = (),
        notes: str | None = None,
        connect_seconds: Annotated[float, Ge(0), Unit("seconds")],
        finish_seconds: Annotated[float, Ge(0), Unit("seconds")],
    ) -> None:
        self._identity, self._config = identity, config
        self._study, self._folder = folder, folder.absolute() / "mlflow"
        self._resumed_step, self._mode = resumed_step, mode
        self._project = project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        self._tags, self._notes = [*identity.tags, *map(str, tags)], notes
        self._connect_seconds, self._finish_seconds = connect_seconds, finish_seconds
        self._run: MlflowRun | None = None
        self._requests = InOrder("MLflow could not log a part of the run")
        self._sent_step = -1
        self._step = resumed_step or 0

    def __enter__(self) -> Self:
        self._run = run = self._open()
        logger.info(f"MLflow: {self.links.get('mlflow', self._folder / 'mlflow.db')}")
        if run.is_new:
            params = {key: value for key, value in flat(self._config).items() if key not in AS_TAGS}
            self._put(lambda: run.log_params(params))
            self._put(lambda: run.set_tags(self._run_tags()))
        if self._resumed_step is not None:
            points = read_points(self._study / self._identity.name / "metrics.jsonl")
            recorded = [(milliseconds(), point) for point in points]
            self._put(lambda: self._catch_up(recorded))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (run := self._run) is None:
            return
        is_stopped = kind is not None and issubclass(kind, Interrupted | KeyboardInterrupt)
        status = "FINISHED" if kind is None else "KILLED" if is_stopped else "FAILED"
        self._put(lambda: run.end(status))
        seconds = min(INTERRUPTED_SECONDS, self._finish_seconds) if is_stopped else self._finish_seconds
        if not self._requests.close(seconds):
            logger.warning(
                f"MLflow: the upload is incomplete after {seconds:g} s. The limit is tracker.mlflow.finish_seconds; "
                f"for an interrupted run, it is at most {INTERRUPTED_SECONDS:g} s."
            )

    @property
    def links(self) -> Mapping[str, str]:
        return {} if self._run is None or self._run.url is None else {"mlflow": without_password(self._run.url)}

    def log_data(
        self, split_hash: str, sizes: Mapping[str, int], make_tables: Callable[[], Mapping[str, Table]]
    ) -> None:
        if (run := self._run) is not None and run.is_new:
            tags = {"split_hash": split_hash, **{f"documents.{split}": str(size) for split, size in sizes.items()}}
            self._put(lambda: run.set_tags(tags))
            self._put_tables({f"data/{name}.json": table for name, table in make_tables().items()})

    def log(self, point: Mapping[str, float | int]) -> None:
        """Log one record without waiting. Skip steps that an earlier process has already logged."""
        if (run := self._run) is None:
            return
        self._step, timed = int(point["step"]), (milliseconds(), dict(point))
        # The background thread compares the steps, because only that thread asks MLflow for the last step.
        self._put(lambda: run.log([timed] if timed[1]["step"] > self._sent_step else []))

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        confusion = confusion_table(labels, predictions, label_names)
        tables = {"test/confusion_matrix.json": confusion, "test/mistakes.json": mistakes_table(mistakes)}
        self._put_tables(tables)

    def finish(self, result: Mapping[str, Any], run_folder: Path) -> None:
        """Log the numbers in `result` as metrics, and the files in `ARTIFACTS` as artifacts."""
        if (run := self._run) is None:
            return
        point = {**final_metrics(result), "step": self._step}
        numbers = {name: value for name, value in point.items() if math.isfinite(value)}
        self._put(lambda: run.log([(milliseconds(), numbers)]))
        for file in ARTIFACTS:
            if (run_folder / file).is_file():
                self._put_file(run_folder / file, Path(file).parent)

    def _open(self) -> "MlflowRun":
        from imdbcls.tracking.mlflow_run import MlflowRun, local_uri

        resume, arguments = self._resumed_step is not None, (self._folder, self._project, self._identity.name)
        uri = os.environ.get(SERVER, "")
        if not uri and self._mode == "online":
            raise UserError(
                f"{SERVER} is not set, but tracker=mlflow needs it with tracker.mode=online. Set the variable to the "
                "URL of the MLflow server, or use tracker.mode=auto."
            )
        if uri and self._mode != "offline":
            try:
                if uri.startswith("http") and not is_reachable(without_password(uri), self._connect_seconds):
                    raise TimeoutError("the server does not answer")
                return within(self._connect_seconds + 1, lambda: MlflowRun(uri, *arguments, resume=resume))
            except Exception as error:
                what = f"{without_password(uri)} failed ({first_line(error)})"
                logger.warning(f"MLflow: {what}; this run is logged locally.")
        return MlflowRun(local_uri(self._folder), *arguments, resume=resume)

    def _catch_up(self, recorded: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Ask MLflow for the last step of the run, and send the recorded points after that step."""
        assert self._run is not None
        self._sent_step = self._run.last_step()
        self._run.log([each for each in recorded if each[1]["step"] > self._sent_step])

    def _run_tags(self) -> dict[str, Any]:
        own = {key: self._config.get(key) for key in AS_TAGS}
        listed = {"study": self._identity.study, "job_type": self._identity.job_type, "tags": ",".join(self._tags)}
        notes = {"mlflow.note.content": self._notes, "mlflow.source.git.commit": own["git_commit"]}
        return {**own, **listed, **notes}

    def _put(self, request: Callable[[], None]) -> None:
        self._requests.put(request)

    def _put_tables(self, tables: Mapping[str, Table]) -> None:
        if (run := self._run) is not None:
            self._put(lambda: run.log_tables(tables))

    def _put_file(self, file: Path, folder: Path) -> None:
        if (run := self._run) is not None:
            self._put(lambda: run.log_file(file, None if folder == Path(".") else str(folder)))


def describe_auto() -> str:
    """Return where `tracker=mlflow` would log on this machine, or how to install MLflow.

    One request checks that the server answers.
    """
    version, uri = installed_version("mlflow-skinny"), os.environ.get(SERVER, "")
    if version is None:
        return "not installed: pip install 'imdbcls[mlflow]' to use tracker=mlflow"
    found = f"mlflow {version}: tracker=mlflow logs to"
    if not uri:
        return f"{found} runs/<study>/mlflow/mlflow.db; set {SERVER} to use a server"
    if uri.startswith("http") and not is_reachable(without_password(uri), INTERRUPTED_SECONDS):
        return f"{found} runs/<study>/mlflow/mlflow.db, because {without_password(uri)} ({SERVER}) does not answer"
    return f"{found} {without_password(uri)} ({SERVER})"


def milliseconds() -> int:
    return int(time.time() * 1000)
