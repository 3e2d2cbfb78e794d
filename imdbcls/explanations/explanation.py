"""The explanation of one prediction."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """The words that the model read in a text, and how much each word moved the logit of the class `target`.

    - `words`: the words that the model read, in the order of the text. `spans`: the start and the end of each word, so
      that the word is `text[start:end]`.
    - `scores`: the integrated gradients of the logit of `target`, summed over the tokens of each word. A positive score
      counts for the class, a negative score against it.
    - `label`: the most probable class. `probabilities`: the calibrated probability of each class. `target`: the
      explained class.
    - `baseline`: the token that replaces every token, except special tokens, in the baseline.
    - `logit`, `baseline_logit`: the logits of `target` for the text and for the baseline, before calibration. For an
      ensemble, these are the means of the calibrated logits of its runs. `baseline_probabilities`: the calibrated
      probability of each class for the baseline.
    - `completeness_error`: the distance between the sum of the scores and `logit - baseline_logit`. `tolerance` is the
      largest error for which `is_complete` is true. `steps` is the number of steps of the integration.
    - `pooling`: the weight of each word in the average of the token vectors, if the head has `pooling_weights`;
      `special_pooling` is the weight of the special tokens. Otherwise both are None.
    - `unread`: the parts of `text` that the model did not read, because the text is too long. `num_tokens` counts the
      tokens of the text, and `num_read` counts the tokens that the model read, both without special tokens.
    - `num_windows`: the number of windows into which the text was split.
    """

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    scores: tuple[float, ...]
    label: str
    probabilities: Mapping[str, float]
    target: str
    logit: float
    baseline_logit: float
    baseline: str
    baseline_probabilities: Mapping[str, float]
    completeness_error: float
    tolerance: float
    steps: int
    pooling: tuple[float, ...] | None
    special_pooling: float | None
    unread: tuple[tuple[int, int], ...]
    num_tokens: int
    num_read: int
    num_windows: int

    @property
    def baseline_label(self) -> str:
        """The most probable class of the baseline."""
        return max(self.baseline_probabilities, key=self.baseline_probabilities.__getitem__)

    @property
    def is_complete(self) -> bool:
        return self.completeness_error <= self.tolerance
