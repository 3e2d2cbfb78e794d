"""What identifies a run: its name and the hashes of its configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imdbcls.runs.content import by_content

if TYPE_CHECKING:
    from imdbcls.runtime.device import Hardware

# Keys that cannot change a result, but for its last bits by the number of threads, which `jobs` shares out: runs that
# differ in them alone are the same run.
NEUTRAL_KEYS = (
    "tracker",
    "progress",
    "jobs",
    "runs_dir",
    "study",
    "checkpoint",
    "data.cache_dir",
    "backbone.cache_gb",
    "trainer.log_every",
    "plugins",
)
SEED_KEYS = ("seed", "data.order_seed")


def without(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """A copy of a nested configuration without the dotted keys."""
    kept = json.loads(json.dumps(config))
    for key in keys:
        *parents, last = key.split(".")
        section = kept
        for parent in parents:
            section = section.get(parent, {})
        section.pop(last, None)
    return kept


def digest(config: Mapping[str, Any]) -> str:
    """A configuration's identity: sha256 of its canonical JSON, the first 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def config_hash(config: Mapping[str, Any]) -> str:
    """The same for configurations that must give the same result, however the paths in them are spelled."""
    return digest(by_content(without(config, NEUTRAL_KEYS)))


def group_hash(config: Mapping[str, Any]) -> str:
    """The same for runs that differ in their seeds alone."""
    return digest(by_content(without(config, NEUTRAL_KEYS + SEED_KEYS)))


def choices_hash(config: Mapping[str, Any]) -> str:
    """The same for runs that differ at most in their seeds and in where their documents come from.

    Runs with the same one and the same `split_hash` are one group: the documents may be a CSV file for one run and a
    data set of the hub for another.
    """
    source = config["data"]["source"]
    origin = tuple(f"data.{key}" for key in ("source", "name", *source))
    return digest(by_content(without(config, NEUTRAL_KEYS + SEED_KEYS + origin)))


def checkpoint_identity(
    config: Mapping[str, Any], split_hash: str, hardware: "Hardware", frozen_weights: str | None
) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be continued: all that decides the result except the software.

    `frozen_weights` is the hash of a frozen encoder's weights, which checkpoints do not contain.
    """
    return {
        **({} if frozen_weights is None else {"frozen_encoder": frozen_weights}),
        "configuration": by_content(without(config, NEUTRAL_KEYS)),
        "split_hash": split_hash,
        "device": hardware.device.type,
        "precision": hardware.precision,
    }


def run_name(config: Mapping[str, Any]) -> str:
    """For example `lstm-s0-1a2b3c4d`: readable, the same for the same choices, different for different ones."""
    return f"{config['head']['name']}-s{config['seed']}-{config_hash(config)[:8]}"
