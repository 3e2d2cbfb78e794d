"""The sentences and the ranking of words that all renderings of an explanation share."""

import math
from collections.abc import Sequence

from imdbcls.explanations.explanation import Explanation
from imdbcls.printable import in_percent


def prediction_text(explanation: Explanation) -> str:
    """Return the most probable classes with their probabilities, such as "positive 97.3 %, negative 2.7 %"."""
    return in_percent(explanation.probabilities)


def baseline_text(explanation: Explanation) -> str:
    """Return the probabilities for the baseline. Add a caveat if the baseline and the text have the same class."""
    found = f"Baseline ({explanation.baseline} replaces every word): {in_percent(explanation.baseline_probabilities)}."
    if explanation.baseline_label != explanation.label:
        return found
    return (
        f"{found} The model predicts {explanation.label} even without the words of the text. The scores show only how "
        "the words change this prediction."
    )


def facts(explanation: Explanation) -> list[str]:
    """Return what a reader must know about the scores: their sum, their error, and what the model did not read."""
    difference = explanation.logit - explanation.baseline_logit
    found = [
        f"The scores sum to {sum(explanation.scores):+.3f}. From the baseline to this text, the logit of "
        f"{explanation.target} changes by {difference:+.3f}. The error is {explanation.completeness_error:.1g} with "
        f"{explanation.steps} integration steps; at most {explanation.tolerance:.1g} is allowed."
    ]
    if not explanation.is_complete:
        found.insert(0, "Warning: the error of these scores is larger than allowed, so they may be misleading.")
    if explanation.num_windows > 1:
        found.append(
            f"The text is split into {explanation.num_windows} windows, and their logits are averaged. The score of a "
            "word that is in several windows is the sum over these windows."
        )
    unread = explanation.num_tokens - explanation.num_read
    if unread:
        found.append(
            f"The model did not read {unread:,} of the {explanation.num_tokens:,} tokens, because of its max_length."
        )
    if explanation.special_pooling is not None:
        found.append(f"The special tokens have {100 * explanation.special_pooling:.1f} % of the pooling weights.")
    return found


def strongest_words(values: Sequence[float], count: int) -> list[int]:
    """Return the indices of the words with the largest absolute values, largest first."""
    return sorted(range(len(values)), key=lambda word: -abs(values[word]))[:count]


def level_of(value: float, largest: float, num_levels: int) -> int:
    """Return the strength of a value relative to `largest`: from 0 to `num_levels`, with the sign of the value."""
    if largest == 0:
        return 0
    return int(math.copysign(round(num_levels * abs(value) / largest), value))


def pieces(explanation: Explanation) -> list[tuple[str, int | None]]:
    """Split the text into pieces, each with the index of its word, -1 for unread text, or None for other text."""
    marked = [(span, word) for word, span in enumerate(explanation.spans)]
    marked += [(span, -1) for span in explanation.unread]
    found: list[tuple[str, int | None]] = []
    position = 0
    for (start, end), word in sorted(marked):
        found += [(explanation.text[position:start], None), (explanation.text[start:end], word)]
        position = end
    found.append((explanation.text[position:], None))
    return [(text, word) for text, word in found if text]
