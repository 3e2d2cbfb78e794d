"""Combine any number of trackers into one.

A failing tracker stops neither training nor the other trackers, unless it raises UserError when it is started.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imdbcls.errors import UserError
from imdbcls.tracking.protocol import Table, Tracker
from imdbcls.tracking.reasons import first_line

logger = logging.getLogger(__name__)


class Trackers(Tracker):
    """A tracker that forwards every call to several trackers.

    `constructors` maps the name of each tracker to its constructor, which is called when the block is entered. For each
    tracker, the first exception is logged as a warning, and later exceptions are ignored. A tracker that cannot be
    started receives no calls. If starting a tracker raises UserError, the started trackers are closed, and the error is
    re-raised.
    """

    def __init__(self, constructors: Mapping[str, Callable[[], Tracker]] | None = None) -> None:
        self._constructors = dict(constructors or {})
        self._started: dict[str, Tracker] = {}
        self._failed: set[str] = set()

    def __enter__(self) -> Self:
        for name, construct in self._constructors.items():
            try:
                self._started[name] = construct().__enter__()
            except UserError as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
            except Exception as error:
                self._warn_once(name, "cannot be started", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each("could not be closed", lambda tracker: tracker.__exit__(kind, error, trace))
        self._started.clear()

    @property
    def links(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        self._each("has no link", lambda tracker: found.update(tracker.links))
        return found

    def log_data(
        self, split_hash: str, sizes: Mapping[str, int], make_tables: Callable[[], Mapping[str, Table]]
    ) -> None:
        self._each("could not log the data", lambda tracker: tracker.log_data(split_hash, sizes, make_tables))

    def log(self, point: Mapping[str, float | int]) -> None:
        self._each("could not log a step", lambda tracker: tracker.log(point))

    def log_test(
        self,
        labels: Sequence[int],
        predictions: Sequence[int],
        label_names: Sequence[str],
        mistakes: Sequence[Mapping[str, Any]],
    ) -> None:
        self._each(
            "could not log the test results",
            lambda tracker: tracker.log_test(labels, predictions, label_names, mistakes),
        )

    def finish(self, result: Mapping[str, Any], run_folder: Path) -> None:
        self._each("could not log the result", lambda tracker: tracker.finish(result, run_folder))

    def _each(self, failure: str, call: Callable[[Tracker], None]) -> None:
        for name, tracker in self._started.items():
            try:
                call(tracker)
            except Exception as error:
                self._warn_once(name, failure, error)

    def _warn_once(self, name: str, failure: str, error: Exception) -> None:
        if name not in self._failed:
            self._failed.add(name)
            what = f"tracker.{name} {failure} ({first_line(error)})"
            logger.warning(f"{what}; the run continues and is recorded in its folder.")
