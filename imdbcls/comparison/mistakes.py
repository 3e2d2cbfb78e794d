"""Documents worth reading: where two groups disagree in every seed, where all fail, and where the label looks wrong."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from imdbcls.comparison.study import Group
from imdbcls.comparison.views.extent import MOST_GROUPS

Texts = Callable[[Sequence[str]], dict[str, str]]

CONFIDENT = 0.9
MAX_LISTED = 200
MAX_PER_PAIR = 25
MAX_SHOWN = 400
MAX_TEXT_CHARACTERS = 4_000


def label_errors(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Documents whose label every group contradicts with the same other class, at a mean probability of 0.9 or more.

    The idea of confident learning (Northcutt et al. 2021, JAIR 70) with all groups as one jury. Only groups on the same
    documents can sit on it; the most suspicious come first.
    """
    jury = [group for group in groups if np.array_equal(group.ids, groups[0].ids)]
    mean_GNC = np.stack([group.probabilities_SNC.mean(axis=0) for group in jury])
    weakest_NC = mean_GNC.min(axis=0)
    suspects_N = weakest_NC.argmax(axis=1)
    confidence_N = weakest_NC.max(axis=1)
    labels_N = jury[0].labels_N
    found = np.flatnonzero((suspects_N != labels_N) & (confidence_N >= CONFIDENT))
    found = found[np.argsort(-confidence_N[found], kind="stable")]
    return [
        {
            "id": str(jury[0].ids[i]),
            "label": int(labels_N[i]),
            "suspected": int(suspects_N[i]),
            "least_confidence": float(confidence_N[i]),
        }
        for i in found
    ]


def disagreements(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per ordered pair: the documents that `right` got right and `wrong` got wrong in every seed, surest first."""
    found = []
    for a, b in combinations(groups, 2):
        if not np.array_equal(a.ids, b.ids):
            continue
        share_a, share_b = a.correct_SN.mean(axis=0), b.correct_SN.mean(axis=0)
        gap_N = label_probability(a) - label_probability(b)
        for right, wrong, chosen_N, sign in (
            (a, b, (share_a == 1) & (share_b == 0), 1),
            (b, a, (share_b == 1) & (share_a == 0), -1),
        ):
            rows = np.flatnonzero(chosen_N)
            rows = rows[np.argsort(-sign * gap_N[rows], kind="stable")]
            found.append({"right": right.name, "wrong": wrong.name, "ids": [str(right.ids[i]) for i in rows]})
    return found


def wrong_for_all(groups: Sequence[Group]) -> list[str]:
    """Documents that no run of any group got right, those with the least hope first."""
    jury = [group for group in groups if np.array_equal(group.ids, groups[0].ids)]
    never_N = np.max([group.correct_SN.max(axis=0) for group in jury], axis=0) == 0
    rows = np.flatnonzero(never_N)
    hope_N = np.mean([label_probability(group) for group in jury], axis=0)
    return [str(jury[0].ids[i]) for i in rows[np.argsort(hope_N[rows], kind="stable")]]


def label_probability(group: Group) -> np.ndarray:
    """Mean over seeds of the probability given to the label, per document."""
    mean_NC = group.probabilities_SNC.mean(axis=0)
    return np.take_along_axis(mean_NC, group.labels_N[:, None], axis=1)[:, 0]


def documents_to_read(
    groups: Sequence[Group], label_names: Sequence[str], found: dict[str, Any], texts: Texts | None
) -> tuple[list[dict[str, Any]], int]:
    """At most 400 documents for the mistakes browser, with every group's answers, and how many there were in all.

    Of many groups, best first, those that can stand side by side: pairs and answers grow with their number.
    """
    groups = groups[:MOST_GROUPS]
    names = {group.name for group in groups}
    reasons: dict[str, list[str]] = {}
    for error in found["label_errors"][: MAX_SHOWN // 4]:
        reasons.setdefault(error["id"], []).append("label")
    for id_ in found["wrong_for_all"][: MAX_SHOWN // 4]:
        reasons.setdefault(id_, []).append("all")
    for disagreement in found["disagreements"]:
        if not {disagreement["right"], disagreement["wrong"]} <= names:
            continue
        for id_ in disagreement["ids"][:MAX_PER_PAIR]:
            reasons.setdefault(id_, []).append(f"{disagreement['right']} > {disagreement['wrong']}")
    candidates = {error["id"] for error in found["label_errors"]} | set(found["wrong_for_all"])
    candidates |= {id_ for disagreement in found["disagreements"] for id_ in disagreement["ids"]}
    rows_of = {group.name: {str(id_): row for row, id_ in enumerate(group.ids)} for group in groups}
    chosen = [id_ for id_ in reasons if any(id_ in rows for rows in rows_of.values())][:MAX_SHOWN]
    text_of = texts(chosen) if texts and chosen else {}
    shares = {group.name: group.correct_SN.mean(axis=0) for group in groups}
    given = {group.name: label_probability(group) for group in groups}
    documents = []
    for id_ in chosen:
        readers = [group for group in groups if id_ in rows_of[group.name]]
        row = rows_of[readers[0].name][id_]
        documents.append(
            {
                "id": id_,
                "label": label_names[readers[0].labels_N[row]],
                "tokens": int(readers[0].tokens_N[row]),
                "text": shortened(text_of[id_]) if id_ in text_of else None,
                "reasons": reasons[id_],
                "answers": [
                    {
                        "group": group.name,
                        "right": round(float(shares[group.name][rows_of[group.name][id_]]), 3),
                        "probability": round(float(given[group.name][rows_of[group.name][id_]]), 3),
                    }
                    for group in readers
                ],
            }
        )
    return documents, len(candidates)


def shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[:MAX_TEXT_CHARACTERS] + " …"
