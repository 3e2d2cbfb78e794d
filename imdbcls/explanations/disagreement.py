"""Find the test documents on which two runs differ most, and explain both predictions on a page.

Shape suffixes: N documents, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from imdbcls.construction import read_texts
from imdbcls.ensemble import require_same_classes
from imdbcls.errors import UserError
from imdbcls.explanations.explaining import explain
from imdbcls.explanations.html import Section, Side, about, page_html
from imdbcls.finished_run import FinishedRun
from imdbcls.runs.data_origin import describe_source


@dataclass(frozen=True)
class Disagreement:
    """A document on which two runs differ.

    `difference` is the total variation distance between the two distributions over classes: half the sum of the
    absolute differences. With two classes, it is the difference in the probability of either class.
    """

    id: str
    text: str
    label: str
    difference: float


def disagreement_page(
    runs: tuple[FinishedRun, FinishedRun],
    count: int,
    on_progress: Callable[[int, int], None],
    *,
    is_own_data: bool = False,
) -> str:
    """Return an HTML page with the documents on which two runs differ most, and both runs' explanations side by side.

    Both sides explain the label of the document, so that their colours have the same meaning. `is_own_data` has the
    same meaning as in `read_texts`. Raise UserError as in `disagreements` and `explain`.
    """
    documents = disagreements(runs, count, is_own_data=is_own_data)
    sections = []
    for number, document in enumerate(documents, start=1):
        sides = [Side(about(run), explain(run, document.text, document.label)) for run in runs]
        difference = f"The probabilities of the two runs differ by {100 * document.difference:.1f} points."
        labels = [side.explanation.label for side in sides]
        correct = [run.folder.name for run, label in zip(runs, labels, strict=True) if label == document.label]
        sections.append(
            Section(f"{document.id} · label: {document.label}", f"{difference} {correct_note(correct)}", sides)
        )
        on_progress(number, len(documents))
    shown = "the test document" if len(documents) == 1 else f"the {len(documents):,} test documents"
    return page_html(
        title=f"Disagreement of {runs[0].folder.name} and {runs[1].folder.name}",
        headline="On which documents do the two runs differ most?",
        about=f"This page shows {shown} with the largest difference between the calibrated probabilities of the two "
        "runs. Blue words count for the label of the document, orange and underlined words against it. Colours are "
        "relative to the strongest word of each explanation.",
        sections=sections,
    )


def correct_note(correct: Sequence[str]) -> str:
    """Return a sentence that says which of two runs are correct. `correct` contains the names of the correct runs."""
    if len(correct) == 1:
        return f"Only {correct[0]} is correct."
    return "Both are correct." if correct else "Both are wrong."


def disagreements(
    runs: tuple[FinishedRun, FinishedRun], count: int, *, is_own_data: bool = False
) -> list[Disagreement]:
    """Return up to `count` common test documents with the largest difference, largest first.

    The recorded predictions are compared by their calibrated probabilities. A common document has the same id, label
    and text in both runs. Raise UserError if the runs have different classes or no common documents, or if the texts
    cannot be read.
    """
    first, second = runs
    require_same_classes(runs)
    recorded = [run.predictions("test") for run in runs]
    texts = texts_of(first, is_own_data)
    same_split = first.result.get("split_hash") == second.result.get("split_hash")
    others = texts if same_split else texts_of(second, is_own_data)
    rows = [{str(id_): row for row, id_ in enumerate(each.ids)} for each in recorded]
    common = [
        id_
        for id_, row in rows[0].items()
        if id_ in rows[1]
        and recorded[0].true_labels[row] == recorded[1].true_labels[rows[1][id_]]
        and texts.get(id_, "") == others.get(id_)
    ]
    if not common:
        raise UserError(
            f"{first.folder} and {second.folder} have no test documents in common. Choose two runs on the same data."
        )
    probabilities = [
        run.calibrated(each).known_probabilities[[row[id_] for id_ in common]]
        for run, each, row in zip(runs, recorded, rows, strict=True)
    ]
    difference_N = np.abs(probabilities[0] - probabilities[1]).sum(axis=1) / 2
    return [
        Disagreement(
            id=common[i],
            text=texts[common[i]],
            label=first.label_names[recorded[0].true_labels[rows[0][common[i]]]],
            difference=float(difference_N[i]),
        )
        for i in np.argsort(-difference_N, kind="stable")[:count]
    ]


def texts_of(run: FinishedRun, is_own_data: bool) -> dict[str, str]:
    """Map the ids of a run's test documents to their texts. `read_texts` decides which files the run may read."""
    try:
        return read_texts(run.config.plain(), str(run.result.get("split_hash")), is_own_data=is_own_data)
    except UserError as error:
        remedy = (
            " If the path is relative, run this command in the folder in which you started the training. You can also "
            "read your own copy of the documents with --data PATH."
        )
        raise UserError(
            f"The texts of {run.folder} cannot be read from {describe_source(run.config.data.source.node)}: {error}"
            f"{'' if is_own_data else remedy}"
        ) from error
