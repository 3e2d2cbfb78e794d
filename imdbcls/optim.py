"""What the optimizer is given, and how the learning rate moves: parameter groups and schedules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: weight matrices, which decay, and biases and norms, which do not.

    Anything with fewer than two dimensions is a bias, a norm's gain or a head's weight per position: none is decayed.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2]},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def linear(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak over the warmup steps, then to zero after the last step, both in straight lines."""
    return get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def cosine(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak in a straight line, then to zero along half a cosine."""
    return get_cosine_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def constant(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak in a straight line, then constant."""
    return get_constant_schedule_with_warmup(optimizer, num_warmup_steps)


def onecycle(
    optimizer: Optimizer,
    *,
    num_steps: int,
    num_warmup_steps: int,
    div_factor: float,
    final_div_factor: float,
    cycle_momentum: bool,
) -> LRScheduler:
    """PyTorch's `OneCycleLR` with the optimizer's own learning rate as the peak (Smith & Topin 2018).

    The peak is the last warmup step, step 2 at the earliest and one before the last at the latest: with no step on one
    side of it, `OneCycleLR` divides by zero. Without warmup steps, or with under three steps, the rate only falls.
    """
    peak_step = 0 if num_warmup_steps == 0 or num_steps < 3 else min(max(num_warmup_steps, 2), num_steps - 1)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=num_steps,
        pct_start=peak_step / num_steps,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


def state_of(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors (`3/exp_avg`: of parameter 3) and the rest for JSON."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                scalars[f"{index}/{name}"] = value
    return tensors, {"scalars": scalars, "param_groups": state["param_groups"]}


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Give an optimizer the state that `state_of` took from one with the same parameters; ValueError for another's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *rest["scalars"].items()]:
        index, name = key.split("/")
        if int(index) not in range(len(parameters)):
            raise ValueError(f"there is no parameter for {key}")
        shape = parameters[int(index)].shape
        # Scalars and Adafactor's rows and columns are smaller than their parameter.
        if isinstance(value, Tensor) and torch.broadcast_shapes(value.shape, shape) != shape:
            raise ValueError(f"{key} has shape {tuple(value.shape)} for a parameter of {tuple(shape)}")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
