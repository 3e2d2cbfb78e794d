"""Render an explanation for a terminal, as plain text, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from imdbcls.explanations.explanation import Explanation
from imdbcls.explanations.wording import baseline_text, facts, level_of, pieces, prediction_text, strongest_words
from imdbcls.printable import printable
from imdbcls.runtime.text_table import text_table

if TYPE_CHECKING:
    from rich.text import Text

# Each colour has a contrast ratio of at least 4 with black and with white.
BLUE, ORANGE, PURPLE = "#2f7fc1", "#c4601f", "#b04fb0"
STRENGTHS = ("weak", "medium", "strong")
NUM_WORDS = 10  # rows in the table of the strongest words


def styles_of(colour: str) -> tuple[str, ...]:
    return colour, f"bold underline {colour}", f"bold reverse {colour}"


def print_coloured(explanation: Explanation, stdout: TextIO, columns: int) -> None:
    """Print the text with coloured words, a legend and facts, in lines of at most `columns` characters."""
    from rich.console import Console

    console = Console(
        file=stdout, width=columns, force_terminal=True, force_jupyter=False, highlight=False, markup=False, emoji=False
    )
    blocks = [coloured_words(explanation, explanation.scores, BLUE), legend(explanation)]
    if explanation.pooling is not None:
        blocks += [plain("Pooling weights of the head:"), coloured_words(explanation, explanation.pooling, PURPLE)]
    console.print(plain(prediction_text(explanation)), style="bold")
    console.print(plain(baseline_text(explanation)))
    blocks += map(plain, [words_table(explanation, columns), *facts(explanation)])
    for block in blocks:
        console.print(block)
    stdout.flush()


def plain(text: str) -> "Text":
    from rich.text import Text

    return Text(printable(text))


def coloured_words(explanation: Explanation, values: Sequence[float], positive: str) -> "Text":
    """Return the text. The style of a word shows its value relative to the largest value."""
    text = plain("")
    largest = max(map(abs, values), default=0.0)
    for part, word in pieces(explanation):
        style = "" if word is None else "dim" if word == -1 else ""
        if word is not None and word >= 0:
            level = level_of(values[word], largest, len(STRENGTHS))
            style = ("", *styles_of(positive if level > 0 else ORANGE))[abs(level)]
        text.append(printable(part), style)
    return text


def legend(explanation: Explanation) -> "Text":
    text = plain("")
    for side, colour in (("for", BLUE), ("against", ORANGE)):
        text.append(f"{side} {printable(explanation.target)}: ")
        for strength, style in zip(STRENGTHS, styles_of(colour), strict=True):
            text.append(strength, style).append(" ")
        text.append("  ")
    largest = max(map(abs, explanation.scores), default=0.0)
    text.append(f"(strongest: ±{largest:.3f})")
    if explanation.unread:
        text.append(" not read", "dim")
    return text


def table_text(explanation: Explanation) -> str:
    """Return, without colours, the predictions for the text and the baseline, the strongest words, and the facts."""
    head = [prediction_text(explanation), baseline_text(explanation)]
    return "\n".join([*head, words_table(explanation), *facts(explanation)])


def words_table(explanation: Explanation, width: int | None = None) -> str:
    """Return a table of the strongest words with their scores and, where known, pooling weights."""
    pooling = explanation.pooling
    header = ["word", f"score for {explanation.target}", *([] if pooling is None else ["pooling weight"])]
    rows = [
        [
            explanation.words[word],
            f"{explanation.scores[word]:+.3f}",
            *([] if pooling is None else [f"{100 * pooling[word]:.1f} %"]),
        ]
        for word in strongest_words(explanation.scores, NUM_WORDS)
    ]
    return text_table(rows, header, width=width)


def json_answer(explanation: Explanation, number: int, copied: Mapping[str, object]) -> dict[str, Any]:
    """Return an explanation as JSON values, with one object per word."""
    values = asdict(explanation)
    words = [
        {"word": word, "start": start, "end": end, "score": score}
        for word, (start, end), score in zip(explanation.words, explanation.spans, explanation.scores, strict=True)
    ]
    if explanation.pooling is not None:
        for entry, weight in zip(words, explanation.pooling, strict=True):
            entry["pooling_weight"] = weight
    for name in ("text", "words", "spans", "scores", "pooling"):
        del values[name]
    return {"number": number, **copied, **values, "words": words}
