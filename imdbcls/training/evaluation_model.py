"""The model that is scored and kept: the trained one itself, or one that follows it by averaging or merging."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imdbcls.models import lora
from imdbcls.models.classifier import Classifier, copy_of


class ScoredModel:
    """`trained` is what the steps move, `model` what is scored, saved as the best and left at the end: a plain model.

    They are one unless `lora_rank` has adapters trained, which are merged into `model`, or `ema_decay` has the weights
    averaged. The average is an exponential one over the steps taken, with Adam's correction of its start (Kingma & Ba
    2015, section 3): the weights after step t have the share decay^(n - t) of n steps, and what was before the first
    step, with a head that has learnt nothing, has none. What is not trained is not averaged, and shared in memory.
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
    def follow(self, num_steps: int) -> None:
        """Average in the weights after a step; `num_steps` were taken, this one included."""
        if self.decay is not None:
            share = (1 - self.decay) / (1 - self.decay**num_steps)
            torch._foreach_lerp_(list(self.averaged().values()), list(self._moving().values()), share)

    def catch_up(self) -> None:
        """Have `model` be what it is to be at this moment; only adapters still have to be merged."""
        if self.has_adapters:
            lora.merge(self.average, self.model)

    def averaged(self) -> dict[str, Tensor]:
        """The average of each trained weight by its name, to be saved; nothing where nothing is averaged."""
        if self.decay is None:
            return {}
        weights = dict(self.average.named_parameters())
        return {name: weights[name].detach() for name in self._moving()}

    def load_averaged(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `averaged` gave; raises KeyError where a weight is lacking."""
        for name, average in self.averaged().items():
            average.copy_(tensors[name])

    def _moving(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.trained.named_parameters() if weight.requires_grad}
