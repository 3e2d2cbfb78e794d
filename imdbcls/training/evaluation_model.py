"""The evaluation model: the trained model, an average of its weights, or its LoRA-merged copy."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from imdbcls.models import lora
from imdbcls.models.classifier import Classifier, copy_of


class EvaluationModel:
    """A pair of models: training updates `trained`; `model` is evaluated, and saved if it is the best so far.

    They are the same object, except in two cases. With `lora_rank`, `trained` has adapters, and `model` is a plain
    classifier that gets the merged weights. With `ema_decay` or `swa_start`, `model` has an average of the weights:

    - `ema_decay`: the exponential moving average, with Adam's bias correction (Kingma & Ba 2015, section 3). After n
      steps, the average includes the weights of each step t with a share that is proportional to decay^(n - t).
    - `swa_start`: stochastic weight averaging (Izmailov et al. 2018, section 3.2), the mean of the weights after each
      step from `swa_start` + 1. Until then, `model` has the current weights. Departure from the paper: the paper
      averages once per epoch.

    The initial weights, with an untrained head, are not part of the average. With adapters, `model` gets the merged
    average. `model` never has adapters. Frozen weights are not averaged; the two models share them in memory, except
    the weights of linear layers if `lora_rank` is set. Buffers, such as the running mean of a batch normalization, are
    not averaged: `model` gets those of `trained`, as `torch.optim.swa_utils.AveragedModel` does by default.
    """

    def __init__(
        self, model: Classifier, *, lora_rank: int | None, ema_decay: float | None, swa_start: int | None = None
    ) -> None:
        assert ema_decay is None or swa_start is None, "only one average is possible"
        self.model = model
        self.has_adapters = lora_rank is not None
        self.decay = ema_decay
        self.swa_start = swa_start
        self.has_average = ema_decay is not None or swa_start is not None
        if lora_rank is not None:
            self.trained = lora.with_adapters(model, lora_rank)
        else:
            self.trained = copy_of(model) if self.has_average else model
        if self.has_average:
            self.average = copy_of(self.trained) if self.has_adapters else model
        else:
            self.average = self.trained

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Update the average after a step. `num_steps` is the number of steps taken, including this step."""
        if not self.has_average:
            return
        averages, weights = tuple(self.average_state().values()), tuple(self._trainable().values())
        if self.decay is not None:
            share = (1 - self.decay) / (1 - self.decay**num_steps)
            torch._foreach_lerp_(averages, weights, share)
        elif self.swa_start is not None:
            num_averaged = max(num_steps - self.swa_start - 1, 0)  # if 0, the average becomes a copy of the weights
            get_swa_multi_avg_fn()(averages, weights, num_averaged)

    @torch.no_grad()
    def sync(self) -> None:
        """Merge the adapters into `model`, and copy the buffers of `trained`. Call this before each evaluation."""
        if self.has_adapters:
            lora.merge(self.average, self.model)
        if self.model is not self.trained:
            saved = self.model.state_dict()
            for name, buffer in self.trained.named_buffers():
                if name in saved:  # the encoder computes its other buffers, such as the angles of rotary embeddings
                    saved[name].copy_(buffer)

    def average_state(self) -> dict[str, Tensor]:
        """Return the averages of the trained weights, keyed by name, for a checkpoint; {} without an average."""
        if not self.has_average:
            return {}
        weights = dict(self.average.named_parameters())
        return {name: weights[name].detach() for name in self._trainable()}

    def load_average_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the average from the output of `average_state`. Raise KeyError if a weight is missing."""
        for name, average in self.average_state().items():
            average.copy_(tensors[name])

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.trained.named_parameters() if weight.requires_grad}
