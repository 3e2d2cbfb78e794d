"""The phases of training. LP-FT has two: it first trains only the head, then all weights. Other runs have one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.models.classifier import Classifier


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs, starting at `first_epoch` (counted from 0), with their own optimizer and schedule.

    With `head_only`, the encoder is frozen in these epochs and has no dropout.
    """

    first_epoch: int
    head_only: bool
    optimizer: Optimizer
    schedule: LRScheduler


class Phases:
    """The phases of a run in their order, and the current phase.

    With LP-FT (linear probing, then fine-tuning; Kumar et al. 2022, section 4), the first phase trains only the head,
    and the second phase trains all weights, starting from this head. Other runs have one phase. Departure from the
    paper: the second phase starts from the last weights of the first phase, not from the weights of its best epoch.
    """

    def __init__(self, model: Classifier, phases: Sequence[Phase]) -> None:
        self.phases = tuple(phases)
        self.encoder_weights = [weight for weight in model.encoder.parameters() if weight.requires_grad]
        self.current = self.phases[0]
        self.enter(0)

    @property
    def num_head_epochs(self) -> int:
        """The number of epochs that train only the head before all weights are trained."""
        return self.phases[-1].first_epoch

    @property
    def encoder_is_fixed(self) -> bool:
        """Whether no weight of the encoder is trained in any phase."""
        return not self.encoder_weights

    def enter(self, epoch: int) -> bool:
        """Make the phase of an epoch (counted from 0) the current phase. Return whether the current phase changed."""
        before = self.current
        self.current = next(phase for phase in reversed(self.phases) if phase.first_epoch <= epoch)
        for weight in self.encoder_weights:
            weight.requires_grad_(not self.current.head_only)
        return self.current is not before
