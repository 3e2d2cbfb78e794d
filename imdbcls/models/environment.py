"""A run's environment: all that can change the last bits of its results, besides its configuration and data."""

import torch

from imdbcls.kernels import PYTORCH, compiler_version, numeric_path
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.environment import machine_environment


def environment_of(hardware: Hardware, trained: Classifier | None, evaluated: Classifier) -> dict[str, str]:
    """Return the environment by name; `kernels` (training) and `scoring_kernels` name the code that really computes.

    `trained` is None where nothing is trained. The CPU kernels are loaded, and compiled if needed.
    """
    found = {"hardware": hardware.describe()}
    if trained is not None:
        found["kernels"] = path_of(hardware, trained, training=True)
    found["scoring_kernels"] = path_of(hardware, evaluated, training=False)
    if {found.get("kernels", PYTORCH), found["scoring_kernels"]} != {PYTORCH}:
        found["compiler"] = compiler_version() or "unknown"
    return found | machine_environment(hardware.device.type)


def path_of(hardware: Hardware, model: Classifier, training: bool) -> str:
    """Return the name of the code that computes a model's numbers (`kernels.numeric_path`)."""
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    return numeric_path(model.encoder, model.head, device=hardware.device.type, dtype=dtype, training=training)
