"""The environment of a run: the hardware and software that can change the last bits of its results."""

import torch
from torch import nn

from imdbcls.kernels import PYTORCH, compiler_version, numeric_path
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.environment import machine_environment


def environment_of(hardware: Hardware, trained: Classifier | None, evaluated: Classifier) -> dict[str, str]:
    """Return the environment as names and values.

    `kernels` (training) and `scoring_kernels` (evaluation) name the implementation that computes the encoder and the
    head. `trained` is None if no model is trained. The CPU kernels are loaded, and compiled if needed.
    """
    found = {"hardware": hardware.describe()}
    if trained is not None:
        found["kernels"] = path_of(hardware, trained.encoder, trained.head, training=True)
    found["scoring_kernels"] = path_of(hardware, evaluated.encoder, evaluated.head, training=False)
    return found | _of_machine(hardware, {found.get("kernels", PYTORCH), found["scoring_kernels"]})


def environment_of_encoder(hardware: Hardware, encoder: nn.Module) -> dict[str, str]:
    """Return the environment of a frozen encoder as names and values. The head does not influence it."""
    path = path_of(hardware, encoder, nn.Identity(), training=False)
    return {"hardware": hardware.describe(), "scoring_kernels": path} | _of_machine(hardware, {path})


def path_of(hardware: Hardware, encoder: nn.Module, head: nn.Module, training: bool) -> str:
    """Return the name of the implementation that computes a model's output (see `kernels.numeric_path`)."""
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    return numeric_path(encoder, head, device=hardware.device.type, dtype=dtype, training=training)


def _of_machine(hardware: Hardware, paths: set[str]) -> dict[str, str]:
    compiler = {} if paths == {PYTORCH} else {"compiler": compiler_version() or "unknown"}
    return compiler | machine_environment(hardware.device.type)
