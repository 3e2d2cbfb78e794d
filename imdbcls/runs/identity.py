"""The name of a run and the hashes of its config."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imdbcls.runs.content import with_content_hashes

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.runtime.device import Hardware

# The keys of `data` that decide which documents are in which split, before the limits are applied.
SPLIT_CHOICES = ("source", "split_seed", "test_fraction", "validation_fraction", "validate_on_train")


def digest(values: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of config values, after content hashes have replaced the paths."""
    text = json.dumps(with_content_hashes(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_hash(config: "Config") -> str:
    """Return a hash that is equal for configs that must give the same result.

    For a local file, the hash depends on the content of the file and not on its path.
    """
    return digest(config.choices())


def group_hash(config: "Config") -> str:
    """Return a hash that is equal for runs that differ only in their seeds."""
    return digest(config.choices(seeds=False))


def choices_hash(config: "Config") -> str:
    """Return a hash that is equal for runs that differ only in their seeds and in the source of their documents.

    Runs with equal `choices_hash` and `split_hash` form one group, even if they read the same documents from different
    sources, such as a CSV file and a dataset on the hub.
    """
    choices = config.choices(seeds=False)
    origin = {"source", "name", *config.data.source.arguments}
    choices["data"] = {key: value for key, value in choices["data"].items() if key not in origin}
    return digest(choices)


def split_choices_hash(config: "Config") -> str:
    """Return a hash that is equal for configs with the same splits before `train_limit` and the other limits."""
    data = config.choices()["data"]
    return digest({"data": {key: data[key] for key in SPLIT_CHOICES if key in data}})


def resume_key(config: "Config", split_hash: str, hardware: "Hardware", frozen_weights: str | None) -> dict[str, Any]:
    """Return the values that must be unchanged to resume from a checkpoint.

    Software versions are not included, so a run can still be resumed after an upgrade.

    `frozen_weights` is the hash of a frozen encoder's weights, which are not in the checkpoint, or None if the encoder
    is trained.
    """
    return {
        **({} if frozen_weights is None else {"frozen_encoder": frozen_weights}),
        "configuration": with_content_hashes(config.choices()),
        "split_hash": split_hash,
        "device": hardware.device.type,
        "precision": hardware.precision,
    }


def run_name(config: "Config") -> str:
    """Return the name of a run: its head, seed and the start of its config hash, such as `lstm-s0-1a2b3c4d`."""
    return f"{config.head.name}-s{config.seed}-{config_hash(config)[:8]}"
