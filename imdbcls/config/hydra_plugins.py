"""Check which launchers and sweepers of Hydra are installed and supported."""

from collections.abc import Callable, Sequence

# The distribution to install for each launcher.
DISTRIBUTIONS = {
    "joblib": "hydra-joblib-launcher",
    "ray": "hydra-ray-launcher",
    "ray_aws": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
# Sweepers that optimise the value that a run returns.
SEARCHING = ("ax", "nevergrad", "optuna")


def without_missing_parts(overrides: Sequence[str], options: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """Return the overrides without unusable launchers and sweepers, and a sentence for each one that was removed.

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
    """Return the sentence for a launcher or sweeper that cannot be used; None for a usable one."""
    if part == "sweeper" and choice in SEARCHING:
        return (
            f"hydra/sweeper={choice} is not supported yet: a run returns no value to optimise. List the values with "
            "--multirun instead, such as lr=1e-5,3e-5 seed=0,1,2, or let a W&B sweep choose them."
        )
    installed = options(f"hydra/{part}")
    if choice in installed:
        return None
    distribution = DISTRIBUTIONS.get(choice) if part == "launcher" else None
    remedy = f"run pip install {distribution}" if distribution else f"choose one of {', '.join(installed)}"
    return f"hydra/{part}={choice} is not installed: {remedy}."
