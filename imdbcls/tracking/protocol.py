"""The interface between a run and its trackers, such as W&B or TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

Table = tuple[list[str | int], list[list[str | int]]]  # column names and rows


@dataclass(frozen=True)
class RunIdentity:
    """The name, the study and the tags under which a tracker lists a run.

    `name` is the name of the run folder or, for a comparison, `comparison-<study>`. `job_type` is `train` or
    `comparison`.
    """

    study: str
    name: str
    job_type: str
    tags: tuple[str, ...]


class Tracker(Protocol):
    """The interface of a tracker. A tracker is a context manager: an exception in the block marks the run as failed.

    A class that inherits from `Tracker` overrides only the methods that it needs. Its constructor may declare any of
    these parameters:

    - `identity`, the study, name, job type and tags of the run
    - `config`, the resolved config as nested values
    - `folder`, the study's folder
    - `resumed_step`, the optimizer step from which a resumed run continues, or None for a new run
    - `mode`, `project`, `entity`, `tags` and `notes`, the keys that all trackers share
    - its own keys in `tracker.<name>`

    A tracker may raise any exception: `Trackers` logs the first one, and training continues. UserError ends the run if
    the constructor or `__enter__` raises it. Methods should return quickly, because training waits for them.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run. `kind` is None for a run that ended normally."""

    @property
    def links(self) -> Mapping[str, str]:
        """The URLs of the run, keyed by name; empty without a server."""
        return {}

    def log_data(
        self, split_hash: str, sizes: Mapping[str, int], make_tables: Callable[[], Mapping[str, Table]]
    ) -> None:
        """Record the hash of the splits, the number of documents per split, and the tables of the data card."""

    def log(self, point: Mapping[str, float | int]) -> None:
        """Record one line of `metrics.jsonl`. `step` increases with each call, but a resumed run may repeat steps."""

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        """Record the predictions on the test split.

        `labels` and `predictions` are indices into `label_names`. Each of the `mistakes` has the keys `id`, `text`,
        `label`, `prediction` and `probability` (of the predicted class). The most confident mistake comes first.
        """

    def finish(self, result: Mapping[str, Any], run_folder: Path) -> None:
        """Record the content of `result.json`. At this point, all files in `run_folder` are complete."""
