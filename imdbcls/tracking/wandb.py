"""`tracker=wandb`: log a run to Weights & Biases. A failure of W&B never stops training."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from annotated_types import Ge, Unit

from imdbcls.config.choices import TrackerMode
from imdbcls.errors import UserError
from imdbcls.runs.metrics_log import read_points
from imdbcls.runs.selection import DEFAULT
from imdbcls.runtime.messages import queue_of_messages, record_message
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import artifacts
from imdbcls.tracking.console import ConsoleLog
from imdbcls.tracking.earlier_logs import last_logged_step, replace_logs
from imdbcls.tracking.metrics import COPIES, copies_of, define_metrics
from imdbcls.tracking.once import once
from imdbcls.tracking.pages import MAX_CLASSES, confusions_table, mistakes_table
from imdbcls.tracking.protocol import RunIdentity, Table, Tracker
from imdbcls.tracking.server import PROBE_SECONDS
from imdbcls.tracking.session import Session

logger = logging.getLogger(__name__)

# wandb imports the second module when it opens a run, and the third when it logs a table.
IMPORTED_LATER = ("wandb", "wandb.sdk.launch.inputs.internal", "requests")
# The fields of `result.json` that describe an artifact.
ARTIFACT_FIELDS = ("name", "head", "backbone", "seed", "group_label", "group_hash", "split_hash", "test/accuracy")


class WandbTracker(Tracker):
    """Log a run to W&B. An exception in the block marks the W&B run as failed.

    `Interrupted` means that a signal stopped the run. The W&B run is then also marked as preempted, because the run may
    be resumed. If W&B asked for the stop, the W&B run ends with the status `stopped` instead, and
    `Interrupted.stopped_by` is set. The process may be killed soon, so the upload is limited to a few seconds.

    - `mode` is `auto`, `online`, `offline` or `disabled`. `auto` means `online` if a key is configured and the server
      answers, and else `offline`. WANDB_MODE and WANDB_DISABLED override `auto`.
    - `folder` is the study's folder. W&B writes to `folder/wandb`.
    - `resumed_step` is the optimizer step from which a resumed run continues, or None for a new run. Steps that W&B
      already has are not sent again.
    - `project`, `entity` and `notes` default to W&B's environment variables if they are None.
    - `tags` are added to the tags in `identity`.
    - `connect_seconds` and `finish_seconds` limit the wait for the server at the start and at the end.
    - If `console` is true, the messages of the run are logged. If `log_model` is true, the best weights are logged.
    - `publish` has no effect on a run. A sweep reads it after its last run.

    If W&B fails, a warning is logged and training continues. Raise UserError if `mode` is `online` and no valid API
    key is configured.
    """

    def __init__(
        self,
        *,
        identity: RunIdentity,
        config: Mapping[str, Any],
        folder: Path,
        resumed_step: int | None = None,
        mode: TrackerMode,
        project: str | None,
        entity: str | None,
        connect_seconds: Annotated[float, Ge(0), Unit("seconds")],
        finish_seconds: Annotated[float, Ge(0), Unit("seconds")],
        console: bool = True,
        log_model: bool = False,
        publish: bool = True,
        tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        self._session = Session(
            identity,
            config,
            folder,
            resume=resumed_step is not None,
            mode=mode,
            project=project,
            entity=entity,
            connect_seconds=connect_seconds,
            finish_seconds=finish_seconds,
            tags=tags,
            notes=notes,
        )
        self._identity = identity
        self._config = config
        self._folder = folder
        self._metrics = folder / identity.name / "metrics.jsonl"
        self._resumed_step = resumed_step
        self._sent_step = -1
        self._logs_console = console
        self._logs_model = log_model
        self._metric = str(config.get("metric", DEFAULT))
        self._console: ConsoleLog | None = None

    def __enter__(self) -> Self:
        self._session.open()
        run = self._session.run
        if run is not None:
            self._sent_step = self._earlier_step(run)
            with self._session.guarded("could not define its metrics"):
                define_metrics(run)
            if self._resumed_step is not None:
                self._log_lost_steps()
            messages = queue_of_messages()
            if self._logs_console and messages is not None:
                self._console = ConsoleLog(messages, self._session.log_console)
        return self

    def _log_lost_steps(self) -> None:
        """Log the steps in `metrics.jsonl` that W&B lacks, because the earlier process was killed."""
        with self._session.guarded("could not log the last steps of a killed process"):
            for point in read_points(self._metrics):
                self.log(point)

    def log(self, point: Mapping[str, float | int]) -> None:
        """Log one record of `metrics.jsonl` without waiting. Skip steps that an earlier process has already logged.

        The record's `step` is also used as W&B's own step, because local viewers offer no other x-axis.
        """
        step = int(point["step"])
        if self._session.run is not None and step > self._sent_step:
            with self._session.guarded("could not log a step"):
                self._session.run.log({**point, **copies_of(point, self._metric)}, step=step)

    @property
    def links(self) -> Mapping[str, str]:
        run = self._session.run
        return {} if run is None or run.offline else {"wandb": str(run.url)}

    def log_data(
        self, split_hash: str, sizes: Mapping[str, int], make_tables: Callable[[], Mapping[str, Table]]
    ) -> None:
        """Log the splits as an input artifact of the run, and the data card as tables.

        The tables are logged only by the first run of the study with this `split_hash`.
        """
        if self._session.run is None:
            return
        with self._session.guarded("could not log the data"):
            data = self._config.get("data", {})
            source = {key: value for key, value in data.get("source", {}).items() if not key.startswith("_")}
            artifact = artifacts.dataset_artifact(data.get("name", "data"), split_hash, sizes, source)
            self._session.log_artifact(artifact, ["latest"], is_input=True)
        marker = self._folder / "wandb" / f"data-{split_hash}.logged"
        with self._session.guarded("could not log the data card"), once(marker) as is_first:
            if is_first:
                import wandb

                tables = {f"view/data_{name}": wandb.Table(*table) for name, table in make_tables().items()}
                self._session.log_views(tables, patience=0.5, commit=False)

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        """Log the confusion matrix, the metrics of each class and the worst mistakes on the test split.

        With more than `MAX_CLASSES` classes, log the most frequent confusions instead of the matrix.

        `labels` and `predictions` are indices into `label_names`. Each of the `mistakes` has the keys `id`, `text`,
        `label`, `prediction` and `probability` (of the predicted class). The most confident mistake comes first.
        """
        if self._session.run is None:
            return
        with self._session.guarded("could not log the test results"):
            import wandb
            from sklearn.metrics import precision_recall_fscore_support

            scores = precision_recall_fscore_support(
                labels, predictions, labels=range(len(label_names)), zero_division=0
            )
            for name, values in zip(("precision", "recall", "f1"), scores, strict=False):
                self._session.run.summary.update(
                    {f"test/{name}/{label_names[c]}": float(value) for c, value in enumerate(values)}
                )
            views: dict[str, Any] = {"view/test_mistakes": wandb.Table(*mistakes_table(mistakes))}
            if len(label_names) <= MAX_CLASSES:
                views["view/test_confusion_matrix"] = wandb.plot.confusion_matrix(
                    y_true=list(labels),
                    preds=list(predictions),
                    class_names=list(label_names),
                    title="Confusion matrix, test split",
                )
            else:
                views["view/test_confusions"] = wandb.Table(*confusions_table(labels, predictions, label_names))
                logger.info(
                    f"W&B: the confusion matrix of {len(label_names)} classes is not logged, because the limit is "
                    f"{MAX_CLASSES} classes. The table view/test_confusions has the most frequent confusions."
                )
            self._session.log_views(views, patience=0.5)

    def finish(self, result: Mapping[str, Any], run_folder: Path) -> None:
        """Copy `result`, the content of `result.json`, to the run's W&B summary.

        Values of curves are removed from the summary, unless `result` has the same keys. If the status is `done`, also
        log the files of the run.
        """
        if self._session.run is None:
            return
        with self._session.guarded("could not log the result"):
            summary = self._session.run.summary
            for name in list(summary.keys()):
                if name.startswith(("train/", "val/", COPIES)) and name not in result:
                    del summary[name]
            summary.update(dict(result))
        if result.get("status") == "done":
            with self._session.guarded("could not log the files of the run"):
                self._log_files(result, run_folder)

    def _log_files(self, result: Mapping[str, Any], run_folder: Path) -> None:
        """Log the predictions and, if `log_model` is set, the best weights as artifacts."""
        aliases = artifacts.aliases_of(self._identity.name, self._config.get("group_label"))
        metadata = {key: result[key] for key in ARTIFACT_FIELDS if key in result}
        found = [artifacts.predictions_artifact(self._identity.study, run_folder, metadata)]
        if self._logs_model:
            found.append(artifacts.model_artifact(self._identity.study, run_folder, metadata))
        for artifact in found:
            if artifact is not None:
                self._session.log_artifact(artifact, aliases)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_interrupted, run = isinstance(error, Interrupted), self._session.run
        if isinstance(error, Interrupted) and run is not None:
            with self._session.guarded("could not log the interruption"):
                if self._session.stop.explains_signal(run):
                    error.stopped_by = "W&B"
                    run.summary["status"] = "stopped"
                else:
                    run.mark_preempting()
        if error is not None:
            is_expected = isinstance(error, UserError | Interrupted)
            record_message(str(error) if is_expected else "".join(traceback.format_exception(error)))
        if self._console is not None:
            self._console.stop(PROBE_SECONDS)
        is_stopped = isinstance(error, Interrupted) and error.stopped_by is not None
        self._session.close(exit_code=int(error is not None and not is_stopped), hurried=is_interrupted)

    def _earlier_step(self, run: Any) -> int:
        """Return the last step that earlier processes of this run have logged, or -1 if there is no such step."""
        own_folder = Path(run.dir).parent.resolve()
        logs = [log for log in self._session.logs() if log.parent.resolve() != own_folder]
        replaced = self._folder / "wandb" / f"{run.id}.replaced"
        if self._resumed_step is None:
            with self._session.guarded("could not mark its earlier logs as replaced"):
                replace_logs(logs, replaced)
        elif run.offline:
            return last_logged_step(logs, replaced, self._resumed_step)
        return run.step - 1 if run.resumed else -1
