"""Render the page. Jinja2 escapes all texts, and the content security policy blocks content from other servers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import HTMLResponse

from imdbcls.comparison.views.templates import packaged, source_hash, templates
from imdbcls.explanations import Explanation
from imdbcls.explanations.html import explanation_html
from imdbcls.explanations.html import style as explanation_style
from imdbcls.serving.explaining import EXAMPLE
from imdbcls.serving.limits import Limits
from imdbcls.serving.runs import Answer, ServedRuns
from imdbcls.serving.schema import EnsembleInfo, RunInfo

PACKAGE = "imdbcls.serving"
NUM_CLASSES = 10  # if there are more classes, the page shows only the most probable ones


@dataclass(frozen=True)
class View:
    """The texts with which the page describes a run or an ensemble."""

    name: str
    description: str
    calibration: str


def view_of(info: RunInfo | EnsembleInfo) -> View:
    members = info.members if isinstance(info, EnsembleInfo) else [info]
    models = ", ".join(dict.fromkeys(f"{member.head} on {member.backbone}" for member in members))
    accuracies = sorted(member.test_accuracy for member in members)
    limits = dict.fromkeys(f"{100 * value:.1f}" for value in (accuracies[0], accuracies[-1]))
    whose = "test accuracy" if len(members) == 1 else "test accuracy of its runs"
    return View(info.run, f"{models} · {whose} {' to '.join(limits)}\u00a0%", calibration_of(members))


def calibration_of(members: Sequence[RunInfo]) -> str:
    if all(member.temperature == 1 for member in members):
        return "no temperature was fitted, so the probabilities are not calibrated"
    values = ", ".join(f"{member.temperature:.3g}" for member in members)
    fitted = "the temperature {}, which was" if len(members) == 1 else "the temperatures {} of its runs, which were"
    return f"the probabilities are calibrated with {fitted.format(values)} fitted on the validation split"


class Page:
    """Render the responses of the page."""

    def __init__(self, runs: ServedRuns, limits: Limits) -> None:
        self._runs = runs
        self._template = templates(PACKAGE).get_template("page.html")
        sheet = str(explanation_style()) + packaged(
            "page.css", PACKAGE
        )  # adding page.css to a Markup object would escape it
        script = packaged("page.js", PACKAGE)
        self._fixed = {
            "style": sheet,
            "script": script,
            "runs": [view_of(info) for info in runs.about()],
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
        """Return the form with the user's text, and the reason why the text was not classified."""
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
        """Return the answers of the runs side by side, with the words that moved the logit of `label`.

        `found` contains the explanation of each run. If the user asked for explanations and there are none, `note` says
        why.
        """
        return self._render(
            text=text,
            words=words,
            note=note,
            label=label,
            answers=[
                {
                    "run": view,
                    "answer": answer[view.name],
                    "classes": shown_classes(answer[view.name].probabilities),
                    "explanation": explanation_html(found[view.name]) if found else "",
                }
                for view in map(view_of, self._runs.about())
            ],
        )

    def _render(self, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
        empty = {"text": "", "words": True, "problem": "", "note": "", "label": "", "answers": []}
        html = self._template.render({**self._fixed, **empty, **values})
        return HTMLResponse(html, status, {**self._headers, **(headers or {})})


def shown_classes(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return pairs (class, probability). If there are more than `NUM_CLASSES`, return only the most probable ones."""
    if len(probabilities) <= NUM_CLASSES:
        return list(probabilities.items())
    return sorted(probabilities.items(), key=lambda item: -item[1])[:NUM_CLASSES]
