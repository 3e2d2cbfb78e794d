"""What the optimizer is given, and how the learning rate moves: parameter groups and schedules."""

from typing import Any

from torch import nn
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
    """From zero to the peak over the warmup steps, then to zero at the last step, both in straight lines."""
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
    """PyTorch's `OneCycleLR` with the optimizer's own learning rate as the peak (Smith & Topin 2018)."""
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=num_steps,
        pct_start=num_warmup_steps / num_steps,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )
