"""Select the weights of a run by validation metrics: the weights of the best epoch, or a soup of several epochs."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imdbcls.config.choices import MetricName
from imdbcls.data.batches import EvalBatches
from imdbcls.runs.selection import LOWER_IS_BETTER
from imdbcls.training.evaluation import Evaluator
from imdbcls.training.soup import Rank, Soup, greedy_soup
from imdbcls.training.state import Saver, TrainState


class SelectedSoup(NamedTuple):
    """A greedy soup that is saved as the best checkpoint.

    - `epochs`: the epochs whose weights are averaged, best first.
    - `scores`: the scores of the soup on validation; None if the process that computed them has ended.
    """

    epochs: tuple[int, ...]
    scores: NDArray[np.float64] | None


def rank(metric: MetricName, value: float, loss: float) -> Rank:
    """Return the metric and the loss of weights on validation, with signs such that larger values are better.

    If two values of the metric are equal, the loss decides.
    """
    return (-value if metric in LOWER_IS_BETTER else value, -loss)


def select_soup(
    metric: MetricName,
    state: TrainState,
    saver: Saver,
    evaluator: Evaluator,
    validation: EvalBatches,
    best_scores: NDArray[np.float64] | None,
) -> SelectedSoup:
    """Build a greedy soup of the epochs' weights, and write it as the best checkpoint.

    `best_scores` are the scores of the best epoch on validation; None if the run was resumed after that epoch. This
    function overwrites the weights of the evaluation model.
    """
    model = evaluator.evaluation_model.model
    numbers = range(1, state.epoch + 1)
    metrics: dict[tuple[int, ...], dict[str, float]] = {(epoch,): saver.metrics_of_epoch(epoch) for epoch in numbers}
    scores: dict[tuple[int, ...], NDArray[np.float64] | None] = {(state.best_epoch,): best_scores}

    def rank_of(epochs: tuple[int, ...]) -> Rank:
        return rank(metric, metrics[epochs][f"val/{metric}"], metrics[epochs]["val/loss"])

    def evaluate(soup: Soup) -> Rank:
        model.load_state_dict({**model.state_dict(), **soup.weights})
        found = evaluator.scores("validation", validation)
        metrics[soup.epochs] = evaluator.metrics("val", validation, found)
        scores[soup.epochs] = found
        return rank_of(soup.epochs)

    soup = greedy_soup({epoch: rank_of((epoch,)) for epoch in numbers}, saver.weights_of_epoch, evaluate)
    content = {"step": state.step, "epoch": state.best_epoch, **metrics[soup.epochs]}
    saver.save_soup(soup.weights, {**content, "soup_epochs": soup.epochs})
    return SelectedSoup(soup.epochs, scores[soup.epochs])
