"""The outcomes of a sweep whose runs were trained by another Hydra launcher, such as submitit or joblib.

Such a launcher trains the runs in processes that this package does not start, so the outcomes are read from the run
folders.
"""

from hydra import initialize_config_module
from omegaconf import DictConfig

from imdbcls.config import commandline
from imdbcls.config.checking import typed
from imdbcls.config.hydra_plugins import is_search
from imdbcls.config.options import CONF
from imdbcls.config.overrides import without_hydra
from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.sweeps.jobs import Outcome, Sweep, outcome_of


def record_launched(sweep: Sweep) -> None:
    """Record the outcomes of the jobs that Hydra's sweeper passed to another launcher.

    Do nothing for the default launcher, which has recorded the outcomes of its jobs, or for a search.
    """
    loader = commandline.loader_in_use
    if loader is None or sweep.outcomes:
        return
    for overrides in loader.jobs:
        with initialize_config_module(CONF, version_base="1.3"):
            cfg = loader.compose(overrides)
        if is_search(cfg.hydra.sweeper):
            return
        record(sweep, cfg)


def record(sweep: Sweep, cfg: DictConfig) -> None:
    try:
        config = typed(without_hydra(cfg))
    except UserError as error:  # the job has logged it
        sweep.outcomes.append(Outcome(cfg.hydra.job.override_dirname, "failed", str(error).splitlines()[0]))
        return
    folder = run_folder(config)
    sweep.add_to_study(folder.study, config)
    sweep.outcomes.append(recorded_outcome(folder))


def recorded_outcome(folder: RunFolder) -> Outcome:
    """Return the outcome of a run whose training has ended, from its folder."""
    name, result = folder.path.name, folder.complete()
    if result is not None:
        return outcome_of(name, 0, "", result)
    result = folder.result() or {}
    if result.get("status") in ("failed", "interrupted", "stopped"):
        return Outcome(name, str(result["status"]), str(result.get("error", "")))
    return Outcome(name, "no result", "see the messages of its job")
