"""Show an estimate as text: a table of the groups, the disk space, and what was measured."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from imdbcls.config.schema import Config
from imdbcls.printable import duration
from imdbcls.runtime.cache import cache_folder
from imdbcls.runtime.text_table import text_table, wrapped
from imdbcls.sweeps.cost import Estimate

WIDTH = 100  # characters per line if there is no terminal
HEADER = ("group", "runs", "to train", "time per run", "total", "disk per run")
NOT_INCLUDED = (
    "Not included: downloads, waiting for W&B, and the time that early stopping saves. Other programs, or a "
    "dataset that does not fit in memory, make the runs slower than measured."
)


def report(estimate: Estimate, config: Config, width: int | None) -> str:
    """Return an estimate as text.

    `config` is the config of one of the runs: its `runs_dir` and its cache folder are checked for free disk space.
    `width` is the width of the terminal in characters; None if there is no terminal.
    """
    table = text_table(list(rows_of(estimate)), HEADER, width=width)
    disk = disk_sentences(estimate, config, estimate.peak_bytes)
    sentences = (*failures(estimate), *disk, *measurement(estimate, estimate.seconds), NOT_INCLUDED)
    return page(counts(estimate), table, sentences, width)


def page(summary: str, table: str, sentences: Iterable[str], width: int | None) -> str:
    """Return the text of an estimate. The sentences are wrapped, and the table keeps its lines."""
    lines = [f"Estimate before anything trains: {summary}.", "", table, "", *sentences]
    return "\n".join(line if line is table else wrapped(line, width or WIDTH) for line in lines)


def counts(estimate: Estimate) -> str:
    num_runs, num_done = estimate.num_runs, estimate.num_done
    done = f", {num_done} of them done" if num_done else ""
    return f"{num_runs} run{'s' if num_runs > 1 else ''}{done}, about {duration(estimate.seconds)} on this machine"


def rows_of(estimate: Estimate) -> Iterator[tuple[str, ...]]:
    for group in estimate.groups:
        numbers = (f"{group.num_runs}", f"{group.num_remaining}")
        if group.cost is None:
            yield (group.name, *numbers, "done" if group.num_remaining == 0 else "not measured", "", "")
        else:
            times = duration(group.seconds), duration(group.total_seconds)
            yield (group.name, *numbers, *times, size(group.cost.bytes))
    if estimate.once_seconds:
        yield (once(estimate), "", "", "", duration(estimate.once_seconds), "")
    remaining = estimate.num_runs - estimate.num_done
    yield ("total", f"{estimate.num_runs}", f"{remaining}", "", duration(estimate.seconds), "")


def once(estimate: Estimate) -> str:
    encodes = any(each.cost.encode_seconds and not each.is_done for each in estimate.shared)
    return f"once: start, tokens{', encoding' if encodes else ''}"


def failures(estimate: Estimate) -> Iterator[str]:
    """Yield a sentence for each group that could not be measured."""
    for group in estimate.groups:
        if group.problem:
            yield f"The total does not include {group.name}, which could not be measured: {group.problem.rstrip('.')}."


def disk_sentences(estimate: Estimate, config: Config, peak_bytes: float) -> Iterator[str]:
    """Yield the disk space that the runs need, and a warning for each limit that they exceed.

    `peak_bytes` is the largest size of the run folders during training.
    """
    runs, cache = Path(config.runs_dir), cache_folder(config.data.cache_dir)
    free = free_bytes(runs)
    yield (
        f"Disk: {size(estimate.bytes)} for the run folders, at most {size(peak_bytes)} during training; "
        f"{size(free)} are free."
    )
    needed = peak_bytes
    if estimate.feature_bytes:
        yield from feature_sentences(estimate, config, cache)
        if existing(runs).stat().st_dev == existing(cache).stat().st_dev:
            needed += estimate.feature_bytes
    if needed > free:
        fewer = ", or keep fewer checkpoints (checkpoint.keep=best)" if config.checkpoint.keep == "all" else ""
        yield (
            f"Warning: the disk of {runs} is too small. Free some space, or set runs_dir to a folder on another "
            f"disk{fewer}."
        )


def feature_sentences(estimate: Estimate, config: Config, cache: Path) -> Iterator[str]:
    """Yield the size of the frozen encoder's output, and a warning for each exceeded limit of the feature cache."""
    from imdbcls.training.feature_cache import RESERVE, cache_size  # imports torch

    limit, needed = config.backbone.cache_gb, estimate.feature_bytes
    yield f"The frozen encoder's output takes another {size(needed)} in {cache}."
    if cache_size(cache / "features") + needed > limit * 1e9:
        yield (
            f"Warning: the feature cache would exceed backbone.cache_gb={limit:g}. Raise the limit, delete "
            f"{cache / 'features'} or set backbone.cache=false."
        )
    if needed + RESERVE > free_bytes(cache):
        yield (
            f"Warning: the disk of {cache} is too small. Free some space, or set data.cache_dir to a folder on another "
            "disk."
        )


def measurement(estimate: Estimate, seconds: float) -> Iterator[str]:
    """Yield what was measured, and a warning if other programs used the processors.

    `seconds` is the estimated wall time of all runs.
    """
    costs = [group.cost for group in estimate.groups if group.cost is not None]
    if not costs:
        return
    fewest, most = (function(cost.measured for cost in costs) for function in (min, max))
    documents = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    hardware = ", ".join(dict.fromkeys(cost.hardware for cost in costs))
    runs = "run itself" if estimate.num_runs == 1 else "runs themselves"
    is_longer = f" (longer than the {runs})" if estimate.measured_seconds > seconds else ""
    measured = f"Measured in {duration(estimate.measured_seconds)}{is_longer}"
    if len(costs) == 1:
        yield f"{measured} with {documents} training documents ({hardware})."
    else:
        yield (
            f"{measured}: a run of each group, with {documents} training documents ({hardware}). Groups that differ "
            "only in the learning rate, its schedule or the number of epochs share a measurement."
        )
    if estimate.load > num_processors():
        yield (
            f"Warning: other programs used the processors (load {estimate.load:.1f} on {num_processors()}), so the "
            "measured times are longer than on an idle machine."
        )


def num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """Return a folder, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def size(num_bytes: float) -> str:
    """Return a size such as `350 MB` or `2.3 GB`, in units of 10^6 and 10^9 bytes."""
    value, name = (num_bytes / 1e9, "GB") if num_bytes >= 1e9 else (num_bytes / 1e6, "MB")
    return f"{value:.1f} {name}" if value < 10 else f"{value:,.0f} {name}"
