"""Compile the encoder's training passes with `torch.compile` and dynamic shapes (`compile=true`).

The numbers of rows, columns and non-padding tokens are symbolic in one compiled graph, so new shapes do not cause a new
compilation. The generated code may depend on the first sizes that PyTorch sees. `warm_up` therefore runs the same sizes
before the first step of every run, new or resumed.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import lru_cache

import torch

from imdbcls.errors import UserError
from imdbcls.kernels import is_accelerated_on_cpu
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.padding import token_indices

MAX_WARM_UP_ROWS = 6


@lru_cache
def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return torch.compile(function, dynamic=True)


def compile_training(model: Classifier, hardware: Hardware, num_rows: int, max_length: int, has_types: bool) -> None:
    """Compile the encoder of `model` for training. The names of the parameters do not change.

    `num_rows` is the number of rows in a micro-batch. `has_types`: the batches have token types.

    Raise UserError if this machine cannot compile, or if the encoder uses the fast CPU layers.
    """
    device = hardware.device.type
    if device == "cpu" and is_accelerated_on_cpu(model.encoder):
        raise UserError(
            "compile=true and backbone.fast=true cannot be combined on the CPU: the fast layers cannot be compiled. "
            "Set compile=false, or set backbone.fast=false to compile the encoder's own layers."
        )
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("On CUDA, compile=true needs the package triton, which is not installed: pip install triton.")
    if device == "cpu" and compiler() is None:
        raise UserError("On the CPU, compile=true needs a C++ compiler: install g++ or clang++, or set CXX.")
    if device not in ("cpu", "cuda"):
        raise UserError(f"compile=true supports CUDA and the CPU, but not device={device}. Set compile=false.")
    model.compile_encode = compiled
    warm_up(model, hardware, num_rows, max_length, has_types)


def compiler() -> str | None:
    names = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def warm_up(model: Classifier, hardware: Hardware, num_rows: int, max_length: int, has_types: bool) -> None:
    """Run a forward and backward pass over dummy documents at each of two padded lengths. Then reset all gradients.

    A pass has as many rows as a micro-batch, but at most `MAX_WARM_UP_ROWS`. It has at least two rows, because PyTorch
    treats a size of 1 as a constant.
    """
    was_training = model.training
    model.train()
    num_rows = max(2, min(num_rows, MAX_WARM_UP_ROWS))
    for width in (max_length // 2, max_length):
        lengths_B = torch.linspace(2, width, num_rows).long()
        mask_BT = torch.arange(width) < lengths_B.unsqueeze(1)
        token_indices_N = token_indices(mask_BT).to(hardware.device)
        mask_BT = mask_BT.to(hardware.device)
        types_BT = torch.zeros_like(mask_BT, dtype=torch.int64) if has_types else None
        with hardware.forward_pass():
            hidden_BTD = model.encode(mask_BT.long(), mask_BT, token_indices_N, types_BT)
        if hidden_BTD.requires_grad:
            hidden_BTD.sum().backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
