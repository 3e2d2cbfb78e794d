"""Render the page. All texts are escaped by Jinja2, and the content security policy allows nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from imdbcls.serving.explaining import EXAMPLE, Explained
from imdbcls.serving.limits import Limits
from imdbcls.serving.runs import Answer, ServedRuns

NUM_CLASSES = 10  # classes that the page shows for a run, the most probable first if there are more
NUM_WORDS = 6  # words that the page lists for and against the class
NUM_SHADES = 5


@dataclass(frozen=True)
class Segment:
    """A part of the text: a word with its score, or the text between two words (`score` is None).

    `shade` is -5 to 5: against the explained class or for it.
    """

    text: str
    score: float | None = None
    shade: int = 0


class Page:
    """The page, and its responses."""

    def __init__(self, runs: ServedRuns, limits: Limits) -> None:
        self._runs = runs
        environment = Environment(
            loader=PackageLoader("imdbcls.serving", ""),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._template = environment.get_template("page.html")
        style = "".join(
            [packaged(f"comparison.views/{name}") for name in ("figures.css", "page.css")]
            + [packaged("serving/page.css")]
        )
        script = packaged("serving/page.js")
        self._fixed = {
            "style": style,
            "script": script,
            "runs": runs.about(),
            "limits": limits,
            "example": json.dumps({"texts": [EXAMPLE]}),
        }
        self._headers = {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src '{source_hash(style)}'; script-src '{source_hash(script)}'; "
                "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            )
        }

    def form(self) -> HTMLResponse:
        return self._render()

    def problem(
        self, text: str, words: bool, problem: str, status: int, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """Return the form with the text that the user sent, and why it has no answer."""
        return self._render(status, headers, text=text, words=words, problem=problem)

    def answer(
        self,
        text: str,
        words: bool,
        answer: Mapping[str, Answer],
        label: str,
        found: Mapping[str, Explained],
        note: str,
    ) -> HTMLResponse:
        """Return the answers of the runs side by side, and the words in `found`, which moved the logit of `label`.

        `note` says why there are no words, if the user asked for them.
        """
        return self._render(
            text=text,
            words=words,
            note=note,
            label=label,
            answers=[
                {
                    "run": about,
                    "answer": answer[about.run],
                    "classes": shown_classes(answer[about.run].probabilities),
                    "segments": segments_of(text, found[about.run]) if found else [],
                    "strongest": strongest(found[about.run]) if found else {},
                }
                for about in self._runs.about()
            ],
        )

    def _render(self, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
        empty = {"text": "", "words": True, "problem": "", "note": "", "label": "", "answers": []}
        html = self._template.render({**self._fixed, **empty, **values})
        return HTMLResponse(html, status, {**self._headers, **(headers or {})})


def packaged(name: str) -> str:
    """Return a text file of the package, `<package>/<file>`. The page has the style of the comparison page."""
    package, file = name.split("/")
    return files(f"imdbcls.{package}").joinpath(file).read_text(encoding="utf-8")


def source_hash(source: str) -> str:
    """Return the hash that the content security policy needs to allow an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def shown_classes(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (class, probability) in the order of the classes, or the most probable classes if there are many."""
    if len(probabilities) <= NUM_CLASSES:
        return list(probabilities.items())
    return sorted(probabilities.items(), key=lambda item: -item[1])[:NUM_CLASSES]


def segments_of(text: str, found: Explained) -> list[Segment]:
    """Split the text into words and the parts between them. The shade of a word is its share of the largest score."""
    largest = max((abs(score) for *_, score in found.words), default=0.0) or 1.0
    segments, end_of_last = [], 0
    for _, start, end, score in found.words:
        if start > end_of_last:
            segments.append(Segment(text[end_of_last:start]))
        segments.append(Segment(text[start:end], score, round(NUM_SHADES * score / largest)))
        end_of_last = end
    if end_of_last < len(text):
        segments.append(Segment(text[end_of_last:]))
    return segments


def strongest(found: Explained) -> dict[str, list[tuple[str, float]]]:
    """Return the words with the largest scores `for` the class and `against` it. A repeated word is listed once."""
    ranked = sorted(((word, score) for word, *_, score in found.words), key=lambda item: -abs(item[1]))
    return {
        side: list({word: (word, score) for word, score in reversed(ranked) if sign * score > 0}.values())[::-1][
            :NUM_WORDS
        ]
        for side, sign in (("for", 1), ("against", -1))
    }
