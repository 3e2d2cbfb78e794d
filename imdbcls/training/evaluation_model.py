"""The evaluation model: the trained model, its EMA, or its LoRA-merged copy."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imdbcls.models import lora
from imdbcls.models.classifier import Classifier, copy_of


class EvaluationModel:
    """`trained` is the model that the steps change; `model` is evaluated, saved as the best and left at the end.

    `model` is always a plain classifier. The two are the same object unless `lora_rank` trains adapters, which are
    merged into `model`, or `ema_decay` averages the weights. The average is exponential over the steps, with Adam's
    bias correction (Kingma & Ba 2015, section 3): after n steps, the weights after step t have the share
    decay^(n - t), and the weights before the first step, with an untrained head, have none. Frozen weights are not
    averaged; the models share them in memory.
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
        """Update the average after a step; `num_steps` counts the steps taken, including this one."""
        if self.decay is not None:
            share = (1 - self.decay) / (1 - self.decay**num_steps)
            torch._foreach_lerp_(list(self.ema_state().values()), list(self._moving().values()), share)

    def sync(self) -> None:
        """Bring `model` up to date: merge the adapters. Without adapters it already is."""
        if self.has_adapters:
            lora.merge(self.average, self.model)

    def ema_state(self) -> dict[str, Tensor]:
        """Return the average of each trained weight by its name, for the checkpoint; {} if nothing is averaged."""
        if self.decay is None:
            return {}
        weights = dict(self.average.named_parameters())
        return {name: weights[name].detach() for name in self._moving()}

    def load_ema_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `ema_state` returned; raise KeyError if a weight is missing."""
        for name, average in self.ema_state().items():
            average.copy_(tensors[name])

    def _moving(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.trained.named_parameters() if weight.requires_grad}
