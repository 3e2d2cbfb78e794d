"""Greedy soup: the mean of the weights of several epochs, selected on validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Rank = tuple[float, float]  # a validation metric and the loss, with signs such that larger values are better
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Soup:
    """The mean of the weights after some epochs. `epochs` has their numbers, best first."""

    epochs: tuple[int, ...]
    weights: Weights


def greedy_soup(
    ranks: Mapping[int, Rank], weights_after: Callable[[int], Weights], evaluate: Callable[[Soup], Rank]
) -> Soup:
    """Average the weights of greedily selected epochs (Wortsman et al. 2022, recipe 1).

    Start with the best epoch. Then try the other epochs in the order of their ranks. Add an epoch if the mean with this
    epoch is not worse than the mean without it. So the soup is never worse than the best epoch, on the documents that
    determine the ranks.

    - `ranks`: maps the number of each epoch to its rank.
    - `weights_after`: returns the weights after an epoch. Only two sets of weights and the mean are in memory.
    - `evaluate`: returns the rank of a mean, on the same documents.

    Departure from the paper: the paper averages runs with different hyperparameters or seeds. The epochs of one run
    need no further training, and the soups of several runs can be compared like other runs.
    """
    best, *others = sorted(sorted(ranks), key=lambda epoch: ranks[epoch], reverse=True)
    soup, rank = Soup((best,), weights_after(best)), ranks[best]
    for epoch in others:
        candidate = with_ingredient(soup, epoch, weights_after(epoch))
        if (candidate_rank := evaluate(candidate)) >= rank:
            soup, rank = candidate, candidate_rank
    return soup


def with_ingredient(soup: Soup, epoch: int, weights: Weights) -> Soup:
    """Return the mean over the soup's epochs and one more epoch. Integer buffers keep the values of the best epoch."""
    share = 1 / (len(soup.epochs) + 1)
    mean = {
        name: torch.lerp(tensor, weights[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in soup.weights.items()
    }
    return Soup((*soup.epochs, epoch), mean)
