"""Render explanations as HTML: the coloured words of one text, or a self-contained page.

A page loads nothing from the network, has no script, escapes all data, and has a strict content security policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from imdbcls.comparison.views.templates import packaged, source_hash, templates
from imdbcls.explanations.explanation import Explanation
from imdbcls.explanations.wording import baseline_text, facts, level_of, pieces, prediction_text, strongest_words
from imdbcls.finished_run import FinishedRun
from imdbcls.printable import printable

PACKAGE = "imdbcls.explanations"
NUM_LEVELS = 8  # shades of each colour
NUM_WORDS = 20  # rows in the table of the strongest words


@dataclass(frozen=True)
class Side:
    """The explanation of one run for a document. `name` describes the run."""

    name: str
    explanation: Explanation


@dataclass(frozen=True)
class Section:
    """One document on a page: its title, facts about it, and one or more explanations side by side."""

    title: str
    about: str
    sides: Sequence[Side]


def explanation_html(explanation: Explanation) -> Markup:
    """Return the text with its coloured words, a legend, the pooling weights, facts and a table, as escaped HTML.

    The result needs the style sheet `style()`.
    """
    template = templates(PACKAGE).get_template("explanation.html")
    return Markup(template.render(**values_of(explanation)))


def words_html(explanation: Explanation, values: Sequence[float] | None = None) -> Markup:
    """Return the text as escaped HTML, with one `<span>` per word, coloured by `values` (default: the scores).

    Parts of the text that the model did not read are grey. The result needs the style sheet `style()`.
    """
    positive, shown = ("for", explanation.scores) if values is None else ("weight", values)
    largest = max(map(abs, shown), default=0.0)
    html = Markup()
    for text, word in pieces(explanation):
        if word is None:
            html += printable(text)
        elif word == -1:
            html += Markup('<span class="unread">{}</span>').format(printable(text))
        else:
            level = level_of(shown[word], largest, NUM_LEVELS)
            kind = f"{positive if level > 0 else 'against'}{abs(level)}" if level else "none"
            value = f"{shown[word]:+.3f}" if values is None else f"{100 * shown[word]:.1f} %"
            html += Markup('<span class="{}" title="{}">{}</span>').format(kind, value, printable(text))
    return html


def values_of(explanation: Explanation) -> dict[str, object]:
    """Return the values of the template `explanation.html`."""
    order = strongest_words(explanation.scores, NUM_WORDS)
    pooling = explanation.pooling
    return {
        "prediction": prediction_text(explanation),
        "baseline": baseline_text(explanation),
        "target": explanation.target,
        "words": words_html(explanation),
        "pooling": None if pooling is None else words_html(explanation, pooling),
        "largest": f"{max(map(abs, explanation.scores), default=0.0):.3f}",
        "largest_weight": f"{100 * max(map(abs, pooling or ()), default=0.0):.1f} %",
        "has_unread": bool(explanation.unread),
        "facts": facts(explanation),
        "levels": range(1, NUM_LEVELS + 1),
        "rows": [
            (
                printable(explanation.words[word]),
                f"{explanation.scores[word]:+.3f}",
                None if pooling is None else f"{100 * pooling[word]:.1f} %",
            )
            for word in order
        ],
    }


def page_html(title: str, headline: str, about: str, sections: Sequence[Section]) -> str:
    """Return a page with one section per document."""
    css = style()
    return (
        templates(PACKAGE)
        .get_template("page.html")
        .render(
            style=css,
            style_hash=source_hash(css),
            title=title,
            headline=headline,
            about=about,
            sections=[
                (each, [(side.name, explanation_html(side.explanation)) for side in each.sides]) for each in sections
            ],
        )
    )


def about(run: FinishedRun) -> str:
    """Return the name of a run, its head and its backbone."""
    return f"{run.folder.name}: head {run.config.head.name} on {run.config.backbone.name}"


def style() -> Markup:
    """Return the style sheet: the styles of the comparison page, and the colours of words in light and dark mode."""
    return Markup(packaged("figures.css") + packaged("page.css") + packaged("explanations.css", PACKAGE))
