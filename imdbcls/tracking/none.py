"""`tracker=none`: the run folder is the only record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self


class NoTracker:
    """A tracker that does nothing. The run is recorded only in its folder."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, point: Mapping[str, float | int]) -> None:
        pass

    def log_data(self, split_hash: str, make_tables: Callable[[], Mapping[str, Any]]) -> None:
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
