"""`compile=true`: the encoder's training passes through `torch.compile`, with sizes that may change.

Rows, widths and numbers of real tokens are symbols in one compiled graph: no shape is padded further than the batches
are, and an epoch of any lengths compiles nothing new. What is generated may depend on the sizes that PyTorch sees
first, so `warm_up` shows it the same ones in every run, before the first step or the continued one.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from imdbcls.errors import UserError
from imdbcls.kernels import is_accelerated_on_cpu
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.padding import places_of

if TYPE_CHECKING:
    from imdbcls.models.classifier import Classifier

WARM_UP_ROWS = 6


@lru_cache
def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return torch.compile(function, dynamic=True)


def compile_training(model: "Classifier", hardware: Hardware, max_length: int) -> None:
    """Have `model` compile its encoder for training, now; parameters and their names stay as they are.

    Raises UserError where this machine cannot compile, or where the encoder's layers are those written for the CPU.
    """
    device = hardware.device.type
    if device == "cpu" and is_accelerated_on_cpu(model.encoder):
        raise UserError(
            "compile=true and backbone.fast=true exclude each other on the CPU: the layers written for speed cannot be "
            "compiled. Leave compile=false, or set backbone.fast=false to compile the library's."
        )
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("compile=true needs the Python package triton on CUDA, and it is not installed.")
    if device == "cpu" and compiler() is None:
        raise UserError("compile=true needs a C++ compiler on the CPU: install g++ or clang++, or let CXX name one.")
    if device not in ("cpu", "cuda"):
        raise UserError(f"compile=true is for CUDA and the CPU, not for device={device}.")
    model.compile_encode = compiled
    warm_up(model, hardware, max_length)


def compiler() -> str | None:
    names = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def warm_up(model: "Classifier", hardware: Hardware, max_length: int) -> None:
    """Run one forward and backward pass of invented documents at two widths, and leave nothing behind."""
    was_training = model.training
    model.train()
    for width in (max_length // 2, max_length):
        lengths_B = torch.linspace(2, width, WARM_UP_ROWS).long()
        mask_BT = torch.arange(width) < lengths_B.unsqueeze(1)
        places_N = places_of(mask_BT).to(hardware.device)
        mask_BT = mask_BT.to(hardware.device)
        with hardware.autocast():
            hidden_BTD = model.encode(mask_BT.long(), mask_BT, places_N)
        if hidden_BTD.requires_grad:
            hidden_BTD.sum().backward()
    model.zero_grad(set_to_none=True)
    model.train(was_training)
