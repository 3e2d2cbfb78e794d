"""What the optimizer is given, how the learning rate moves, and the one optimizer that PyTorch lacks."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
import transformers  # its optimization module is imported at the first use: it takes a quarter of a second
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from imdbcls.models.backbone import parts_of
from imdbcls.models.classifier import Classifier

Beta = Annotated[float, Ge(0), Lt(1)]


class Lion(Optimizer):
    """Steps of one size, along the sign of a momentum, with decoupled weight decay (Chen et al. 2023, algorithm 2).

    It keeps one number per weight where Adam keeps two: half the optimizer's memory, and half its part of a checkpoint.
    `betas` are the momentum's shares in the step's direction and from step to step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Annotated[float, Gt(0)],
        betas: tuple[Beta, Beta] = (0.9, 0.99),
        weight_decay: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "no closure is evaluated"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            in_direction, kept = group["betas"]
            directions = torch._foreach_lerp(momenta, gradients, 1 - in_direction)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - kept)


def parameter_groups(
    model: Classifier, *, lr: float | None = None, head_lr: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate, for each in two groups: weight matrices, which decay, and the others.

    Anything with fewer than two dimensions is a bias, a norm's gain or a head's weight per position: none is decayed.
    `head_lr` and `layer_decay` give multiples of the optimizer's own `lr` (see `lr_multiples`), kept by each group as
    `lr_multiple`. Schedules scale every group alike, so the ratios stay.
    """
    multiples = lr_multiples(model, head_lr, layer_decay)
    groups = []
    for multiple in dict.fromkeys(multiples.values()):
        members = [parameter for parameter, own in multiples.items() if own == multiple]
        rate = {"lr_multiple": multiple} | ({} if multiple == 1 or lr is None else {"lr": lr * multiple})
        groups += [
            {"params": [parameter for parameter in members if parameter.ndim >= 2], **rate},
            {"params": [parameter for parameter in members if parameter.ndim < 2], "weight_decay": 0.0, **rate},
        ]
    return groups


def lr_multiples(model: Classifier, head_lr: float, layer_decay: float) -> dict[nn.Parameter, float]:
    """Each trainable parameter's learning rate as a multiple of the optimizer's.

    The head's is `head_lr`; an encoder's layer has `layer_decay` once for each layer from the top down to itself, the
    embeddings once more: `layer_decay` for the top layer of n, its power n + 1 for the embeddings (Howard & Ruder 2018,
    section 3.2, who advise 1 / 2.6 for an LSTM; Clark et al. 2020, ELECTRA, 0.8 for a base model).
    """
    layers = parts_of(model.encoder)[1] if layer_decay != 1 else []
    depths = {parameter: depth for depth, layer in enumerate(layers, start=1) for parameter in layer.parameters()}
    multiples = {}
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.final_norm."):  # ModernBERT's: it follows the top layer
            depths[parameter] = len(layers)
        if parameter.requires_grad:
            below_the_head = len(layers) + 1 - depths.get(parameter, 0)
            multiples[parameter] = head_lr if name.startswith("head.") else layer_decay**below_the_head
    return multiples


def learning_rate(optimizer: Optimizer) -> float:
    """The learning rate of the moment, before the groups' multiples."""
    group = optimizer.param_groups[0]
    return group["lr"] / group["lr_multiple"]


def linear(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak over the warmup steps, then to zero after the last step, both in straight lines."""
    return transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def cosine(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak in a straight line, then to zero along half a cosine."""
    return transformers.get_cosine_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def constant(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """From zero to the peak in a straight line, then constant."""
    return transformers.get_constant_schedule_with_warmup(optimizer, num_warmup_steps)


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
