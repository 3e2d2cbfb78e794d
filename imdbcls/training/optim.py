"""Parameter groups, learning rate schedules, the Lion optimizer, and the optimizer's state for checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
import transformers  # lazy: its optimization module, which takes a quarter of a second, is imported on first use
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from imdbcls.models.classifier import Classifier
from imdbcls.models.layers import parts_of

Beta = Annotated[float, Ge(0), Lt(1)]


class Lion(Optimizer):
    """The Lion optimizer (Chen et al. 2023, algorithm 2), with decoupled weight decay.

    The update of each weight is the learning rate times the sign of an interpolation between momentum and gradient.
    Lion stores one number per weight and Adam stores two, so Lion needs half the memory and disk space for its state.
    `betas[0]` is the share of the momentum in the update's direction, `betas[1]` the decay of the momentum.
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
        assert closure is None, "Lion does not support a closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            direction_beta, momentum_beta = group["betas"]
            directions = torch._foreach_lerp(momenta, gradients, 1 - direction_beta)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - momentum_beta)


def parameter_groups(
    model: Classifier,
    *,
    lr: float | None = None,
    head_lr: float = 1.0,
    layer_decay: float = 1.0,
    head_only: bool = False,
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: for each learning rate, one with weight decay and one without it.

    Weight decay applies to parameters with two or more dimensions. Biases, the gains of layer norms and the position
    weights of a head have one dimension and do not decay. `head_lr` and `layer_decay` determine each parameter's
    multiple of `lr` (see `lr_multiples`), which a group stores as `lr_multiple`. Schedules scale all groups by the same
    factor, so the ratios of their learning rates do not change. With `head_only`, the groups contain only the
    parameters of the head.
    """
    multiples = lr_multiples(model, head_lr, layer_decay)
    if head_only:
        multiples = {weight: multiples[weight] for weight in model.head.parameters() if weight in multiples}
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
    """Return the learning rate of each trainable parameter as a multiple of the optimizer's `lr`.

    The multiple is `head_lr` for the head. For an encoder of n layers it is `layer_decay` for the top layer,
    `layer_decay`^2 for the layer below it, and so on; for the embeddings it is `layer_decay`^(n + 1). Howard & Ruder
    (2018, section 3.2) recommend a decay of 1 / 2.6 for an LSTM; Clark et al. (2020, ELECTRA) use 0.8 for a base model.
    """
    layers = parts_of(model.encoder)[1] if layer_decay != 1 else []
    depths = {parameter: depth for depth, layer in enumerate(layers, start=1) for parameter in layer.parameters()}
    multiples = {}
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.final_norm."):  # ModernBERT's final norm counts as part of the top layer
            depths[parameter] = len(layers)
        if parameter.requires_grad:
            below_the_head = len(layers) + 1 - depths.get(parameter, 0)
            multiples[parameter] = head_lr if name.startswith("head.") else layer_decay**below_the_head
    return multiples


def learning_rate(optimizer: Optimizer) -> float:
    """Return the current learning rate, before it is multiplied by the `lr_multiple` of each group."""
    group = optimizer.param_groups[0]
    return group["lr"] / group["lr_multiple"]


def linear(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """Increase the learning rate linearly from zero to the peak during warmup, then decrease it linearly to zero."""
    return transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def cosine(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """Increase the learning rate linearly to the peak during warmup, then decrease it to zero along half a cosine."""
    return transformers.get_cosine_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)


def constant(optimizer: Optimizer, *, num_steps: int, num_warmup_steps: int) -> LRScheduler:
    """Increase the learning rate linearly from zero to the peak during warmup, then keep it constant."""
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
    """Build PyTorch's `OneCycleLR` with the optimizer's `lr` as the peak (Smith & Topin 2018).

    The learning rate peaks at the last warmup step. The peak is at step 2 at the earliest and at step `num_steps - 1`
    at the latest, because `OneCycleLR` divides by zero if no step comes before or after the peak. Without warmup steps,
    the learning rate only decreases. With fewer than three steps in total, it is constant, because `OneCycleLR` would
    give the last of them a learning rate of almost zero.
    """
    if num_steps < 3:
        return constant(optimizer, num_steps=num_steps, num_warmup_steps=0)
    peak_step = 0 if num_warmup_steps == 0 else min(max(num_warmup_steps, 2), num_steps - 1)
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
    """Split an optimizer's state into tensors, for safetensors, and other values, for JSON.

    The key of a tensor or a number consists of the parameter's index and the value's name, for example `3/exp_avg`.
    """
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                scalars[f"{index}/{name}"] = value
    return tensors, {"scalars": scalars, "param_groups": state["param_groups"]}


def can_expand(shape: Sequence[int], larger: Sequence[int]) -> bool:
    """Return whether a tensor of the first shape can be expanded to the second shape."""
    pairs = zip(reversed(shape), reversed(larger), strict=False)
    return len(shape) <= len(larger) and all(size in (1, large) for size, large in pairs)


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Load a state from `state_of` into an optimizer.

    Raise ValueError if the state does not fit the parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *rest["scalars"].items()]:
        index, name = key.split("/")
        if int(index) not in range(len(parameters)):
            raise ValueError(f"the optimizer has no parameter for {key}")
        shape = parameters[int(index)].shape
        # Step counts and Adafactor's row and column statistics are smaller than their parameter.
        if isinstance(value, Tensor) and not can_expand(value.shape, shape):
            raise ValueError(f"{key} has shape {tuple(value.shape)} for a parameter of shape {tuple(shape)}")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
