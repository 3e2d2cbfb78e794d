"""What identifies a run: its name and the hashes of its configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imdbcls.runs.content import with_content_hashes

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.runtime.device import Hardware


def digest(values: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of some choices, with files named by their content."""
    text = json.dumps(with_content_hashes(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_hash(config: "Config") -> str:
    """Return a hash that is the same for configs that must give the same result, however paths are spelled."""
    return digest(config.choices())


def group_hash(config: "Config") -> str:
    """Return a hash that is the same for runs that differ only in their seeds."""
    return digest(config.choices(seeds=False))


def choices_hash(config: "Config") -> str:
    """Return a hash that is the same for runs that differ at most in their seeds and in the source of their documents.

    Runs with the same one and the same `split_hash` are one group: the documents may be a CSV file for one run and a
    data set of the hub for another.
    """
    choices = config.choices(seeds=False)
    origin = {"source", "name", *config.data.source.arguments}
    choices["data"] = {key: value for key, value in choices["data"].items() if key not in origin}
    return digest(choices)


def resume_key(config: "Config", split_hash: str, hardware: "Hardware", frozen_weights: str | None) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be continued: all that decides the result except the software.

    `frozen_weights` is the hash of a frozen encoder's weights, which checkpoints do not contain.
    """
    return {
        **({} if frozen_weights is None else {"frozen_encoder": frozen_weights}),
        "configuration": with_content_hashes(config.choices()),
        "split_hash": split_hash,
        "device": hardware.device.type,
        "precision": hardware.precision,
    }


def run_name(config: "Config") -> str:
    """Return the name of a run, such as `lstm-s0-1a2b3c4d`: readable, stable and unique for its choices."""
    return f"{config.head.name}-s{config.seed}-{config_hash(config)[:8]}"
