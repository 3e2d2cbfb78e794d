"""Define how W&B shows metrics: the x-axis, the best value in the summary, and copies of the main curves."""

from collections.abc import Mapping
from typing import Any

from imdbcls.runs.selection import LOWER_IS_BETTER

AXIS = "step"
SECTIONS = ("train", "val", "test", "view")
BEST = {
    **{f"val/{name}": "max" for name in ("accuracy", "f1", "auroc")},
    **{f"val/{name}": "min" for name in LOWER_IS_BETTER},
    "train/loss": "min",
}
# Prefix of copied curves. W&B's terminal viewer `wandb leet` sorts plots by name, so its first page shows the copies.
COPIES = "curves/"


def define_metrics(run: Any) -> None:
    """Plot the metrics over the optimizer step, and show the best value so far in the summary of the run.

    The web page hides the step, the epoch and the copied curves, whose names start with `COPIES`.
    """
    for name in (AXIS, "epoch"):
        run.define_metric(name, hidden=True)
    for section in SECTIONS:
        run.define_metric(f"{section}/*", step_metric=AXIS)
    for name, best in BEST.items():
        run.define_metric(name, step_metric=AXIS, summary=best)
    run.define_metric(f"{COPIES}*", step_metric=AXIS, hidden=True)


def copies_of(point: Mapping[str, float | int], metric: str) -> dict[str, float | int]:
    """Return copies of the training loss, the validation metric and the validation loss, with the prefix `COPIES`."""
    names = ("train/loss", f"val/{metric}", "val/loss")
    return {f"{COPIES}{name.replace('/', '_')}": point[name] for name in names if name in point}
