"""`tracker=tensorboard`: log a run to TensorBoard event files in `runs/<study>/tensorboard/<run>/`."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imdbcls.config.packages import installed_version
from imdbcls.runs.metrics_log import read_points
from imdbcls.tracking.pages import (
    confusion_table,
    final_metrics,
    flat,
    mistakes_table,
    spelled,
    table_page,
    values_page,
)
from imdbcls.tracking.protocol import RunIdentity, Table, Tracker

IMPORTED_LATER = ("torch.utils.tensorboard", "tensorboard.plugins.hparams.api_pb2")


class TensorboardTracker(Tracker):
    """Log a run to TensorBoard. `tensorboard --logdir runs/<study>/tensorboard` shows the runs of a study.

    `folder` is the study's folder. The curves are scalars over the optimizer step. The config, the tags, the notes, the
    data and the worst mistakes are logged as text. The HParams page, which compares runs, shows the resolved config and
    the final metrics.

    A resumed run continues after `resumed_step`: TensorBoard ignores the scalars that an earlier process logged for
    later steps. A run that starts from the beginning replaces its earlier event files.
    """

    def __init__(
        self,
        *,
        identity: RunIdentity,
        config: Mapping[str, Any],
        folder: Path,
        resumed_step: int | None = None,
        tags: Sequence[object] = (),
        notes: str | None = None,
    ) -> None:
        self._identity = identity
        self._config = flat(config)
        self._folder = folder / "tensorboard" / identity.name
        self._metrics = folder / identity.name / "metrics.jsonl"
        self._resumed_step = resumed_step
        self._tags = [*identity.tags, *map(str, tags)]
        self._notes = notes
        self._writer: Any = None
        self._is_new = True
        self._step = resumed_step or 0

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        if self._resumed_step is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._is_new = not any(self._folder.glob("events.*"))
        purge_step = None if self._resumed_step is None else self._resumed_step + 1
        self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
        if self._is_new:
            about = {"study": self._identity.study, "tags": ", ".join(self._tags), "notes": self._notes or ""}
            self._text("run", values_page(about), 0)
            self._text("config", values_page(self._config), 0)
        if self._is_new and self._resumed_step is not None:  # earlier processes used other trackers
            for point in read_points(self._metrics):
                self.log(point)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def log_data(
        self, split_hash: str, sizes: Mapping[str, int], make_tables: Callable[[], Mapping[str, Table]]
    ) -> None:
        if self._is_new:
            facts = values_page({"split_hash": split_hash, **{f"documents.{split}": n for split, n in sizes.items()}})
            tables = [f"### {name}\n\n{table_page(table)}" for name, table in make_tables().items()]
            self._text("data", "\n\n".join([facts, *tables]), 0)

    def log(self, point: Mapping[str, float | int]) -> None:
        self._step = int(point["step"])
        for name, value in point.items():
            if name != "step":
                self._writer.add_scalar(name, value, self._step)
        self._writer.flush()  # so that a killed process loses no step

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        self._text("test/confusion_matrix", table_page(confusion_table(labels, predictions, label_names)), self._end)
        self._text("test/mistakes", table_page(mistakes_table(mistakes)), self._end)

    def finish(self, result: Mapping[str, Any], run_folder: Path) -> None:
        """Record the result as text, and its metrics as scalars that the HParams page compares."""
        from torch.utils.tensorboard.summary import hparams

        self._text("result", values_page(flat(result)), self._end)
        metrics = {name: value for name, value in final_metrics(result).items() if name.startswith(("final/", "test/"))}
        choices = {key: value if is_hparam(value) else spelled(value) for key, value in self._config.items()}
        for summary in hparams(choices, metrics):
            self._writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, self._end)

    @property
    def _end(self) -> int:
        """The step of the records that are logged after training. If the run is resumed, new records replace them."""
        return self._step + 1

    def _text(self, name: str, markdown: str, step: int) -> None:
        self._writer.add_text(name, markdown, step)


def describe() -> str:
    """Return where `tracker=tensorboard` would log on this machine, or how to install TensorBoard."""
    version = installed_version("tensorboard")
    if version is None:
        return "not installed: pip install 'imdbcls[tensorboard]' to use tracker=tensorboard"
    return f"tensorboard {version}: tracker=tensorboard logs to runs/<study>/tensorboard"


def is_hparam(value: Any) -> bool:
    """Return whether TensorBoard's HParams page accepts a value without conversion to a string."""
    return isinstance(value, bool | int | float | str)
