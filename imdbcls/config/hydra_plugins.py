"""Check which Hydra launchers and sweepers are installed, and the settings of a sweeper that optimises."""

from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from imdbcls.runs.selection import LOWER_IS_BETTER, TITLES

# The distribution to install for each launcher and sweeper.
DISTRIBUTIONS = {
    "ax": "hydra-ax-sweeper",
    "joblib": "hydra-joblib-launcher",
    "nevergrad": "hydra-nevergrad-sweeper",
    "optuna": "hydra-optuna-sweeper",
    "ray": "hydra-ray-launcher",
    "ray_aws": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
NOTES = {"optuna": " in an environment of its own, because it needs optuna<3"}
# For each sweeper that optimises the value of a run: the key of the direction, its value if lower values of the metric
# are better, and its value if higher values are better.
DIRECTIONS = {
    "ax": ("hydra.sweeper.ax_config.experiment.minimize", "true", "false"),
    "nevergrad": ("hydra.sweeper.optim.maximize", "false", "true"),
    "optuna": ("hydra.sweeper.direction", "minimize", "maximize"),
}


def without_missing_parts(overrides: Sequence[str], options: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """Return the overrides without unusable launchers and sweepers, and an error message for each of these.

    `options(group)` lists the installed choices of `hydra/launcher` or `hydra/sweeper`.
    """
    kept, mistakes = list(overrides), []
    for part in ("launcher", "sweeper"):
        for override in overrides:
            key, _, choice = override.partition("=")
            if key.lstrip("+") != f"hydra/{part}":
                continue
            reason = refusal_of(part, choice.strip("'\" "), options)
            if reason is not None:
                mistakes.append(reason)
                kept = [each for each in kept if not each.lstrip("+~").startswith((f"hydra/{part}", f"hydra.{part}."))]
    return kept, mistakes


def refusal_of(part: str, choice: str, options: Callable[[str], list[str]]) -> str | None:
    """Return the error message for a launcher or sweeper that cannot be used, or None if it can be used."""
    installed = options(f"hydra/{part}")
    if choice in installed:
        return None
    distribution = DISTRIBUTIONS.get(choice, "")
    is_known = distribution.endswith(part)
    remedy = (
        f"run pip install {distribution}{NOTES.get(choice, '')}"
        if is_known
        else f"choose one of {', '.join(installed)}"
    )
    return f"hydra/{part}={choice} is not installed: {remedy}."


def is_search(sweeper: DictConfig) -> bool:
    """Return whether the section `hydra.sweeper` selects a sweeper that optimises the value of a run."""
    return not sweeper._target_.endswith(".BasicSweeper")


def wrong_settings_of_search(hydra: DictConfig, metric: Any, jobs: Any, swept: Collection[str]) -> Iterator[str]:
    """Yield an error message for each setting that a search cannot use.

    `hydra` is Hydra's section, `metric` and `jobs` are the values of these keys, and `swept` are the keys with several
    values.
    """
    sweeper = hydra.runtime.choices["hydra/sweeper"]
    if isinstance(jobs, int) and jobs > 1:
        yield f"jobs={jobs} has no effect with hydra/sweeper={sweeper}, which waits for each run; leave jobs out."
    if "metric" in swept:
        yield f"metric has several values, but hydra/sweeper={sweeper} optimises one metric: set a single value."
    elif sweeper in DIRECTIONS and metric in TITLES:
        key, *directions = DIRECTIONS[sweeper]
        given, needed = (
            as_text(OmegaConf.select(hydra, key.removeprefix("hydra."))),
            directions[metric not in LOWER_IS_BETTER],
        )
        if given != needed:
            better = "lower" if metric in LOWER_IS_BETTER else "higher"
            yield f"{key}={given} does not fit metric={metric}: {better} values are better, so set {key}={needed}."


def as_text(value: Any) -> str:
    """Return a value of a config as it is written on the command line."""
    if isinstance(value, Enum):
        return value.name
    return str(value).lower() if isinstance(value, bool) else str(value)
