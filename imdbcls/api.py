"""The Python interface to the commands. The public names are re-exported by `imdbcls`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imdbcls.config.checking import require_valid
from imdbcls.config.schema import Config
from imdbcls.ensemble import Ensemble
from imdbcls.errors import UserError
from imdbcls.finished import open_finished
from imdbcls.finished_run import FinishedRun
from imdbcls.finished_study import FinishedStudy
from imdbcls.runs.predictions import Predictions
from imdbcls.runtime.console import in_one_output
from imdbcls.runtime.signals import restored_handlers

if TYPE_CHECKING:
    from imdbcls.comparison.results import Comparison

__all__ = [
    "Config",
    "Ensemble",
    "FinishedRun",
    "FinishedStudy",
    "Predictions",
    "compare_runs",
    "compose",
    "load_ensemble",
    "load_run",
    "load_study",
    "run",
]


def compose(*choices: str, config_dir: str | Path | None = None) -> Config:
    """Return the config that `python -m imdbcls.train` would run with the same arguments.

    For example, `compose("head=lstm", "lr=3e-5")`. `python -m imdbcls.train --help` lists the arguments. `config_dir`
    is a folder with YAML files of your own, like `--config-dir` of the command: `compose("experiment=reviews",
    config_dir="my_conf")`. If an experiment defines a sweep, the sweep is ignored: pass one value for each
    swept key. Raise UserError with one line per mistake.
    """
    from imdbcls.config import overrides  # Hydra is not needed to load a run

    if not all(isinstance(choice, str) for choice in choices):
        raise UserError('compose expects one string per choice, such as compose("head=lstm", "lr=3e-5").')
    return overrides.compose(choices, None if config_dir is None else str(config_dir))


def run(config: Config) -> FinishedRun:
    """Train and evaluate one run in this process, as the command `python -m imdbcls.train` does.

    A finished run is loaded and not trained again. An unfinished run is resumed from its last checkpoint. Files go to
    `config.folder`, and W&B is used according to `config.tracker`. Messages go to the logger `imdbcls`. If logging is
    not configured, they are shown in one output of the cell in a Jupyter notebook, and on stderr elsewhere.

    Raise UserError for mistakes that the user can fix, and KeyboardInterrupt if a signal stops the run. The same call
    then resumes the run.
    """
    from imdbcls.train import train

    if not isinstance(config, Config):
        raise UserError('run expects a config, such as imdbcls.compose("head=lstm").')
    config = require_valid(config.plain())
    try:
        with restored_handlers(), in_one_output():  # the caller's process continues after a signal
            train(config)
    except SystemExit as stopped:
        raise KeyboardInterrupt(f"The run {config.folder} was stopped. The same call resumes it.") from stopped
    return load_run(config.folder, plugins=config.plugins)


def load_run(folder: str | Path, *, plugins: Sequence[str] = (), device: str | None = None) -> FinishedRun:
    """Load a finished run from its folder, `runs/<study>/<name>`, without reading its documents.

    `plugins` lists your own packages that the run uses, for example for its head. `device` overrides the device in the
    run's config. Raise UserError if the folder does not contain a finished run, or if the run's config refers to code
    that is not allowed.
    """
    config, result = open_finished(Path(folder), plugins=plugins, device=device)
    return FinishedRun(Path(folder), config, result)


def load_study(folder: str | Path, *, plugins: Sequence[str] = (), device: str | None = None) -> FinishedStudy:
    """Load the finished runs of a study folder, `runs/<study>`, sorted by name. No model is loaded yet.

    Unfinished and damaged runs are left out; `study.unfinished` says why. The other arguments are the same as for
    `load_run`. Raise UserError if the folder does not contain a finished run.
    """
    folder = Path(folder)
    runs, unfinished = [], []
    for path in sorted(path.parent for path in folder.glob("*/config.yaml")):
        try:
            runs.append(load_run(path, plugins=plugins, device=device))
        except UserError as error:
            unfinished.append(str(error))
    if not runs:
        reason = unfinished[0] if unfinished else f"{folder} contains no run folders."
        raise UserError(f"load_study expects a study folder with finished runs, such as runs/heads. {reason}")
    return FinishedStudy(folder, tuple(runs), tuple(unfinished))


def load_ensemble(folders: Iterable[str | Path], *, plugins: Sequence[str] = (), device: str | None = None) -> Ensemble:
    """Load several finished runs, such as the seeds of one head, to average their probabilities.

    The other arguments are the same as for `load_run`. Raise UserError if a folder does not contain a finished run, for
    fewer than two runs, and for runs with different classes.
    """
    if isinstance(folders, str | Path):
        raise UserError('load_ensemble expects a list of run folders, such as load_ensemble(["runs/a", "runs/b"]).')
    return Ensemble(tuple(load_run(folder, plugins=plugins, device=device) for folder in folders))


def compare_runs(path: str | Path, metric: str | None = None, margin: float | None = None) -> "Comparison":
    """Compare the groups of a study folder, or the systems in a file of predictions (CSV, TSV or Parquet).

    The result has the same content as `comparison.json`: `groups` (best first), `pairs` with their tests and outcomes,
    `short_list`, … No file is written. `metric` is accuracy, f1, auroc, brier or loss. The default is the metric that
    selected the best epochs, if all runs recorded the same metric, else accuracy. `margin` is the equivalence margin,
    in points for accuracy, f1 and auroc, and in the unit of the metric for brier and loss. The default is 0.3 points
    for accuracy and f1; for the other metrics, equivalence is not tested. In a planned study, the defaults are the
    metric and the margin of the plan.

    Raise UserError for an invalid argument, or if there is nothing to compare.
    """
    from imdbcls.compare import read, require_margin
    from imdbcls.comparison.metrics import METRICS
    from imdbcls.comparison.summary import chosen, compare_study

    if metric is not None and metric not in METRICS:
        raise UserError(f"metric={metric!r} is not one of {', '.join(METRICS)}.")
    if margin is not None:
        require_margin(margin)
    study = read(Path(path))
    return compare_study(study, *chosen(study, metric, margin))
