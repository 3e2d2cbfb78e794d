"""The finished runs of a study folder, for notebooks and scripts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas

    from imdbcls.finished_run import FinishedRun

SHOWN = ("group", "seed", "val/accuracy", "test/accuracy", "train_seconds")  # columns of the table in a notebook
PREFIXES = ("val/", "test/")
COSTS = ("train_seconds", "documents_per_second", "peak_memory_mb", "parameters", "head_parameters")


class RecordedRun(NamedTuple):
    """A finished run as plain values."""

    result: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class FinishedStudy:
    """The finished runs of a study: `len(study)`, `for run in study`, `study.to_pandas()`.

    `unfinished` has a sentence about each run folder that does not contain a finished run.
    """

    folder: Path
    runs: "tuple[FinishedRun, ...]"
    unfinished: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> "Iterator[FinishedRun]":
        return iter(self.runs)

    def __repr__(self) -> str:
        return f"FinishedStudy({str(self.folder)!r}, {len(self.runs)} finished runs)"

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with one row per run, indexed by the run's name.

        The columns are `group` (the name that `compare` gives to the group), `head`, `backbone`, `seed`, `lr`,
        `best_epoch`, every recorded metric of validation and test, and the costs of training. Each further choice in
        which the groups differ has a text column.
        """
        import pandas

        from imdbcls.comparison.study import group_names
        from imdbcls.runs.plan import has_plan, read_plan

        plan = read_plan(self.folder) if has_plan(self.folder) else None
        names, varied = group_names([RecordedRun(dict(run.result), run.config.plain()) for run in self.runs], plan)
        rows = [{"group": name, **row_of(run)} for run, name in zip(self.runs, names, strict=True)]
        rows = [
            row | {key: value for key, value in choices.items() if key not in row}
            for row, choices in zip(rows, varied, strict=True)
        ]
        return pandas.DataFrame(rows, index=pandas.Index([run.folder.name for run in self.runs]))

    def _repr_html_(self) -> str:
        from imdbcls.comparison.frames import table_html

        frame = self.to_pandas()
        table = table_html(frame[[name for name in SHOWN if name in frame]], index=True)
        return f"<div>{len(self.runs)} finished runs</div>\n{table}"


def row_of(run: "FinishedRun") -> dict[str, Any]:
    """Return the row of a run in `FinishedStudy.to_pandas`."""
    result = run.result
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    return {
        "head": run.config.head.name,
        "backbone": run.config.backbone.name,
        "seed": run.config.seed,
        "lr": run.config.lr,
        "best_epoch": result.get("best_epoch"),
        **{key: value for key, value in numbers.items() if key.startswith(PREFIXES)},
        **{key: numbers[key] for key in COSTS if key in numbers},
    }
