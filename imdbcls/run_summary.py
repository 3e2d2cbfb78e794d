"""Show a finished run in a notebook: its logged metrics as a data frame, its curves, and a short HTML summary."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.printable import duration
from imdbcls.runs.metrics_log import read_points
from imdbcls.runs.selection import DEFAULT, TITLES, as_text, metric_of, selected_epochs
from imdbcls.runs.untrusted import require_regular_file

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MAX_BYTES = 64 << 20  # largest metrics.jsonl that is read
COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito (2008): distinct for colour-blind readers
SIZE = (8.0, 2.8)  # inches


def metrics_frame(folder: Path) -> "pandas.DataFrame":
    """Return the `metrics.jsonl` of a run as a data frame with one row per logged step.

    Raise UserError if the file is missing, too large or damaged.
    """
    import pandas

    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing, so the metrics during training are unknown. Restore it from a backup.")
    require_regular_file(path, MAX_BYTES)
    try:
        points = list(read_points(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: a line is not valid JSON. Restore it from a backup.") from error
    if not all(isinstance(point, dict) for point in points):
        raise UserError(f"{path} is damaged: a line is not a JSON object. Restore it from a backup.")
    return pandas.DataFrame(points)


def plot_curves(metrics: "pandas.DataFrame", result: Mapping[str, Any]) -> "Figure":
    """Draw the training and validation loss, and the validation metric, by epoch. A dotted line marks the best epoch.

    Raise UserError if matplotlib is not installed, if no logged step has an epoch, or if `result` has no best epoch.
    """
    best_epoch = result.get("best_epoch")
    if "epoch" not in metrics or not isinstance(best_epoch, int | float):
        missing = "metrics.jsonl has no key 'epoch'" if "epoch" not in metrics else "result.json has no best_epoch"
        raise UserError(f"plot needs the epochs of the run, but its {missing}. Restore the file from a backup.")
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("plot needs matplotlib: pip install matplotlib.") from error

    metric = metric_of(result)
    name = DEFAULT if metric == "loss" else metric  # the left plot already shows the loss
    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=SIZE, layout="constrained")
    pyplot.close(figure)  # a notebook shows the returned figure; without this line, it would also show the open figure
    for axes, key, label, colour in (
        (losses, "train/loss", "training", COLOURS[0]),
        (losses, "val/loss", "validation", COLOURS[1]),
        (scores, f"val/{name}", "validation", COLOURS[1]),
    ):
        if key in metrics:
            points = metrics[["epoch", key]].dropna()
            is_sparse = key.startswith("val/")
            axes.plot(points["epoch"], points[key], color=colour, label=label, marker="o" if is_sparse else None)
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend(frameon=False)
    scores.set(xlabel="epoch", ylabel=f"validation {TITLES[name]}")
    for axes in (losses, scores):
        axes.axvline(best_epoch, color="gray", linestyle=":", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def run_html(folder: Path, result: Mapping[str, Any]) -> str:
    """Return the settings and the result of a run as HTML. Text is escaped; the theme sets the colours."""
    metric = metric_of(result)
    chosen = "" if metric == DEFAULT else f", {TITLES[metric]} {as_text(metric, result.get(f'test/{metric}'))}"
    accuracy, num_documents = as_text(DEFAULT, result["test/accuracy"]), result["test_documents"]
    rows = {
        "test": f"accuracy {accuracy}{chosen} on {num_documents:,} documents",
        "validation": f"{TITLES[metric]} {as_text(metric, result.get(f'val/{metric}'))} ({chosen_epochs(result)})",
        "head": f"{result['head']} on {result.get('backbone')}",
        "seed": str(result["seed"]),
        "training": training_text(result),
        "folder": str(folder),
    }
    cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return f'<table style="text-align: left"><caption><b>{escape(folder.name)}</b></caption>{cells}</table>'


def chosen_epochs(result: Mapping[str, Any]) -> str:
    """Describe the best epoch, or the epochs of a greedy soup. The values in `result` may have any type."""
    soup = result.get("soup_epochs", [])
    return selected_epochs(
        {"best_epoch": result.get("best_epoch"), "soup_epochs": soup if isinstance(soup, list) else []}
    )


def training_text(result: Mapping[str, Any]) -> str:
    """Describe the duration and the speed of training. The values in `result` may have any type."""
    seconds, speed = result.get("train_seconds"), result.get("documents_per_second")
    if not isinstance(seconds, int | float) or not isinstance(speed, int | float):
        return "not recorded"
    return f"{duration(seconds)}, {speed:,.1f} documents/s"
