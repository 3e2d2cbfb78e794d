"""What identifies a run: its name and the hashes of its configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imdbcls.runs.content import by_content

if TYPE_CHECKING:
    from imdbcls.runtime.device import Hardware

# Keys that cannot change a result, except its last bits by the number of threads, which `jobs` divides. Runs that
# differ only in them are the same run.
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


def content_without(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a nested config without the dotted keys, with files and folders named by their content."""
    kept = json.loads(json.dumps(config))
    for key in keys:
        *parents, last = key.split(".")
        section = kept
        for parent in parents:
            section = section.get(parent, {})
        section.pop(last, None)
    return by_content(kept)


def digest_without(config: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of a config's canonical JSON, without the keys."""
    text = json.dumps(content_without(config, keys), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a hash that is the same for configs that must give the same result, however paths are spelled."""
    return digest_without(config, NEUTRAL_KEYS)


def group_hash(config: Mapping[str, Any]) -> str:
    """Return a hash that is the same for runs that differ only in their seeds."""
    return digest_without(config, NEUTRAL_KEYS + SEED_KEYS)


def choices_hash(config: Mapping[str, Any]) -> str:
    """Return a hash that is the same for runs that differ at most in their seeds and in the source of their documents.

    Runs with the same one and the same `split_hash` are one group: the documents may be a CSV file for one run and a
    data set of the hub for another.
    """
    origin = tuple(f"data.{key}" for key in ("source", "name", *config["data"]["source"]))
    return digest_without(config, NEUTRAL_KEYS + SEED_KEYS + origin)


def checkpoint_identity(
    config: Mapping[str, Any], split_hash: str, hardware: "Hardware", frozen_weights: str | None
) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be continued: all that decides the result except the software.

    `frozen_weights` is the hash of a frozen encoder's weights, which checkpoints do not contain.
    """
    return {
        **({} if frozen_weights is None else {"frozen_encoder": frozen_weights}),
        "configuration": content_without(config, NEUTRAL_KEYS),
        "split_hash": split_hash,
        "device": hardware.device.type,
        "precision": hardware.precision,
    }


def run_name(config: Mapping[str, Any]) -> str:
    """Return the name of a run, such as `lstm-s0-1a2b3c4d`: readable, stable and unique for its choices."""
    return f"{config['head']['name']}-s{config['seed']}-{config_hash(config)[:8]}"
