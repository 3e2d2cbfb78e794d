"""The objects that a command gives to a run to control its training: progress, stop signals, pruning and processes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from imdbcls.runtime.distributed import Processes
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.signals import Interrupted, StopRequest

# Called after each epoch with its number (from 1) and its `metric` on validation. If it returns True, training ends.
ShouldPrune = Callable[[int, float], bool]


@dataclass(frozen=True)
class RunControl:
    """The objects that a command gives to a run to control its training.

    - `progress`: shows the progress.
    - `stop`: whether a signal has requested a stop.
    - `should_prune`: decides after each epoch whether a trial ends; None if the run is not a trial.
    - `processes`: the processes that train this run together.
    """

    progress: Progress
    stop: StopRequest
    should_prune: ShouldPrune | None = None
    processes: Processes = field(default_factory=Processes)

    @property
    def is_trial(self) -> bool:
        """Whether the run is a trial of a tuning study, which never evaluates the test split."""
        return self.should_prune is not None

    def raise_if_stopped(self) -> None:
        """Raise Interrupted in all processes if a signal requested a stop in one of them."""
        signal_number = self.processes.largest(self.stop.signal_number or 0)
        if signal_number:
            raise Interrupted(signal_number)
