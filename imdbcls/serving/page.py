"""Render the page. All texts are escaped by Jinja2, and the content security policy allows nothing from elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse

from imdbcls.comparison.views.templates import packaged, source_hash, templates
from imdbcls.explanations import Explanation
from imdbcls.explanations.html import explanation_html
from imdbcls.explanations.html import style as explanation_style
from imdbcls.serving.explaining import EXAMPLE
from imdbcls.serving.limits import Limits
from imdbcls.serving.runs import Answer, ServedRuns

PACKAGE = "imdbcls.serving"
NUM_CLASSES = 10  # classes that the page shows for a run, the most probable first if there are more


class Page:
    """The page, and its responses."""

    def __init__(self, runs: ServedRuns, limits: Limits) -> None:
        self._runs = runs
        self._template = templates(PACKAGE).get_template("page.html")
        sheet = str(explanation_style()) + packaged("page.css", PACKAGE)  # Markup would escape the second
        script = packaged("page.js", PACKAGE)
        self._fixed = {
            "style": sheet,
            "script": script,
            "runs": runs.about(),
            "limits": limits,
            "example": json.dumps({"texts": [EXAMPLE]}),
        }
        self._headers = {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src '{source_hash(sheet)}'; script-src '{source_hash(script)}'; "
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
        found: Mapping[str, Explanation],
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
                    "explanation": explanation_html(found[about.run]) if found else "",
                }
                for about in self._runs.about()
            ],
        )

    def _render(self, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
        empty = {"text": "", "words": True, "problem": "", "note": "", "label": "", "answers": []}
        html = self._template.render({**self._fixed, **empty, **values})
        return HTMLResponse(html, status, {**self._headers, **(headers or {})})


def shown_classes(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (class, probability) in the order of the classes, or the most probable classes if there are many."""
    if len(probabilities) <= NUM_CLASSES:
        return list(probabilities.items())
    return sorted(probabilities.items(), key=lambda item: -item[1])[:NUM_CLASSES]
