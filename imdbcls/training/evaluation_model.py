"""The evaluation model: the trained model, its EMA, or its LoRA-merged copy."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imdbcls.models import lora
from imdbcls.models.classifier import Classifier, copy_of


class EvaluationModel:
    """A pair of models: training updates `trained`; `model` is evaluated, and saved if it is the best so far.

    They are the same object, except in two cases. With `lora_rank`, `trained` has adapters, and `model` is a plain
    classifier that gets the merged weights. With `ema_decay`, `model` is the exponential moving average of the weights,
    with Adam's bias correction (Kingma & Ba 2015, section 3): after n steps, the weights after step t have a share in
    the average that is proportional to decay^(n - t). The initial weights, with an untrained head, are not part of the
    average. With both options, `model` gets the merged average. `model` never has adapters. Frozen weights are not
    averaged; the two models share them in memory, except the weights of linear layers if `lora_rank` is set.
    """

    def __init__(self, model: Classifier, *, lora_rank: int | None, ema_decay: float | None) -> None:
        self.model = model
        self.has_adapters = lora_rank is not None
        self.decay = ema_decay
        if lora_rank is not None:
            self.trained = lora.with_adapters(model, lora_rank)
        else:
            self.trained = model if ema_decay is None else copy_of(model)
        if ema_decay is None:
            self.average = self.trained
        else:
            self.average = copy_of(self.trained) if self.has_adapters else model

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Update the average after a step. `num_steps` is the number of steps taken, including this step."""
        if self.decay is not None:
            share = (1 - self.decay) / (1 - self.decay**num_steps)
            torch._foreach_lerp_(list(self.ema_state().values()), list(self._trainable().values()), share)

    def sync(self) -> None:
        """Merge the adapters into `model`. Without adapters, `model` is always up to date."""
        if self.has_adapters:
            lora.merge(self.average, self.model)

    def ema_state(self) -> dict[str, Tensor]:
        """Return the average of each trained weight by name, for a checkpoint; {} without `ema_decay`."""
        if self.decay is None:
            return {}
        weights = dict(self.average.named_parameters())
        return {name: weights[name].detach() for name in self._trainable()}

    def load_ema_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the average from the output of `ema_state`. Raise KeyError if a weight is missing."""
        for name, average in self.ema_state().items():
            average.copy_(tensors[name])

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.trained.named_parameters() if weight.requires_grad}
