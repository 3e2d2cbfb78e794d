"""Explain the prediction of an ensemble: the mean of the explanations of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from imdbcls.errors import UserError
from imdbcls.explanations.explanation import Explanation


def mean_explanation(
    found: Sequence[Explanation], temperatures: Sequence[float], folders: Sequence[object]
) -> Explanation:
    """Return the explanation of the mean of the runs' calibrated logits, from each run's explanation of one class.

    Integrated gradients are linear. To get the ensemble's score of a word, each run's score is therefore divided by the
    run's temperature, and the results are averaged over the runs. `label`, `probabilities` and `baseline_probabilities`
    are computed from the mean of the runs' probabilities.

    Raise UserError if the runs do not read the same words, because their tokenizers or their `max_length` differ.
    """
    first = found[0]
    for each, folder in zip(found, folders, strict=True):
        if (each.spans, each.unread, each.baseline) != (first.spans, first.unread, first.baseline):
            raise UserError(
                f"{folders[0]} and {folder} do not read the same words of the text, so their mean cannot be explained. "
                "Explain a single run."
            )
    weights = [1 / (len(found) * temperature) for temperature in temperatures]
    scores = np.array(weights) @ np.array([each.scores for each in found])
    logit = sum(weight * each.logit for weight, each in zip(weights, found, strict=True))
    baseline_logit = sum(weight * each.baseline_logit for weight, each in zip(weights, found, strict=True))
    probabilities = mean_of([each.probabilities for each in found])
    pooling = [each.pooling for each in found if each.pooling is not None]
    special = [each.special_pooling for each in found if each.special_pooling is not None]
    has_pooling = len(pooling) == len(found)
    return replace(
        first,
        scores=tuple(scores.tolist()),
        label=max(probabilities, key=probabilities.__getitem__),
        probabilities=probabilities,
        logit=logit,
        baseline_logit=baseline_logit,
        baseline_probabilities=mean_of([each.baseline_probabilities for each in found]),
        completeness_error=abs(float(scores.sum()) - (logit - baseline_logit)),
        tolerance=sum(weight * each.tolerance for weight, each in zip(weights, found, strict=True)),
        steps=max(each.steps for each in found),
        pooling=tuple(np.mean(pooling, axis=0).tolist()) if has_pooling else None,
        special_pooling=float(np.mean(special)) if has_pooling else None,
    )


def mean_of(probabilities: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of several distributions over the same classes."""
    return {name: float(np.mean([each[name] for each in probabilities])) for name in probabilities[0]}
