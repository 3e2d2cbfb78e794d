"""The settings of the training loop."""

from dataclasses import dataclass

from imdbcls.config.choices import MetricName


@dataclass(frozen=True)
class TrainerSettings:
    """The settings of the training loop.

    - `epochs`: the length of the schedule. Training stops earlier after `patience` epochs without a better `metric`
      (None: it never stops early).
    - `metric`: the validation metric that selects the best epoch.
    - `seed`: determines, together with the step number, the random state of each step.
    - `micro_batch_size`: the number of documents (or windows) in one forward pass. The gradients of the micro-batches
      add up to the gradient of the batch's mean loss. The size affects memory, time and the dropout masks.
    - `max_grad_norm`: gradients are clipped to this norm (None: no clipping).
    - `log_every`: the number of steps between two records of the training metrics.
    - `save_every_minutes`: the time between checkpoints within an epoch (None: only at the end of an epoch).
    - `greedy_soup`: after the last epoch, replace the best weights with a greedy soup of the epochs' weights.
    - `watch_test`: evaluate the test split after each epoch. The metrics are only logged; no decision uses them.
    """

    epochs: int
    metric: MetricName
    patience: int | None
    seed: int
    micro_batch_size: int
    max_grad_norm: float | None
    log_every: int
    save_every_minutes: float | None
    greedy_soup: bool
    watch_test: bool
