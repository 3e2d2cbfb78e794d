"""The cluster settings of `imdbcls.study` and `imdbcls.tune`: `hydra/launcher=submitit_slurm hydra.launcher.mem_gb=16`.

Hydra's submitit launcher defines the keys, as in `python -m imdbcls.train --multirun`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from imdbcls.config.hints import nearest, nearest_keys
from imdbcls.config.hydra_plugins import refusal_of
from imdbcls.config.options import CONF
from imdbcls.config.overrides import make_loader
from imdbcls.errors import UserError

GROUP = "hydra/launcher"
PREFIX = "hydra.launcher."
SLURM = "submitit_slurm"
LOCAL = "basic"
# Settings that the command chooses itself.
OWN = ("_target_", "submitit_folder")


@dataclass(frozen=True)
class ClusterArguments:
    """The settings of `hydra.launcher` (None: no cluster), the other overrides, and an error message per mistake."""

    settings: Mapping[str, Any] | None
    others: tuple[str, ...]
    mistakes: tuple[str, ...]


def read_cluster(overrides: Sequence[str]) -> ClusterArguments:
    """Separate the overrides of Hydra's launcher from the other overrides, and check them."""
    chosen = [text for text in overrides if key_of(text) == GROUP or key_of(text).startswith(PREFIX)]
    others = tuple(text for text in overrides if text not in chosen)
    try:
        return ClusterArguments(settings_of(chosen), others, ())
    except UserError as error:
        return ClusterArguments(None, others, tuple(str(error).splitlines()))


def settings_of(chosen: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the settings of the Slurm launcher: its defaults, changed by `chosen`. Return None if it is not chosen."""
    launchers = [text.partition("=")[2].strip("'\" ") for text in chosen if key_of(text) == GROUP]
    launcher = launchers[-1] if launchers else LOCAL
    keys = [text for text in chosen if key_of(text) != GROUP]
    if launcher == LOCAL:
        if keys:
            raise UserError(
                *(
                    f"{text} has no effect without {GROUP}={SLURM}. Add {GROUP}={SLURM}, or leave {text} out."
                    for text in keys
                )
            )
        return None
    if launcher != SLURM:
        raise UserError(
            f"{GROUP}={launcher}: this command supports only {GROUP}={SLURM}. Choose {GROUP}={SLURM} to train the "
            f"runs on Slurm, or remove {GROUP} to train them on this machine with jobs=NUMBER."
        )
    with initialize_config_module(CONF, version_base="1.3"):
        loader = make_loader(chosen, None)
        reason = refusal_of("launcher", launcher, loader.get_group_options)
        if reason is not None:
            raise UserError(reason)
        defaults = loader.compose([f"{GROUP}={launcher}"]).hydra.launcher
        known = [f"{PREFIX}{name}" for name in defaults if name not in OWN]
        for text in keys:
            key = key_of(text)
            if ".".join(key.split(".")[:3]) not in known:
                raise UserError(f"{text}: there is no such key{nearest(nearest_keys(key, known))}.")
        try:
            found = loader.compose(list(chosen)).hydra.launcher
        except HydraException as error:
            reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
            raise UserError(f"{' '.join(keys)}: {reason}.") from error
    settings = OmegaConf.to_container(found, resolve=False)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items() if name not in OWN}


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
