"""Choose the documents that the page lists as mistakes, with the predictions of the shown groups."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import Study
from imdbcls.comparison.views.extent import shown_groups

MAX_SHOWN = 400
MAX_PER_PAIR = 25
MAX_TEXT_CHARACTERS = 4_000
LINE_BREAK = re.compile(r"<br */?>")
LABEL, ALL = "label", "all"  # reasons other than a disagreement between two groups


@dataclass(frozen=True)
class GroupPrediction:
    """The predictions of one group for one document, summarized over seeds."""

    group: str
    predicted: str  # class that most seeds predict
    right: float  # share of seeds that predict the label
    probability: float | None  # probability of the label, averaged over seeds; None: unknown


@dataclass(frozen=True)
class Document:
    id: str
    label: str
    tokens: int | None  # before truncation; None: unknown
    tokens_read: int | None  # tokens after truncation; None: unknown, split into windows, or different between groups
    text: str | None  # None: could not be read on this machine
    reasons: tuple[str, ...]  # keys of ReadingList.reasons
    predictions: tuple[GroupPrediction, ...]


@dataclass(frozen=True)
class ReadingList:
    documents: tuple[Document, ...]  # at most MAX_SHOWN
    reasons: Mapping[str, str]  # why documents are listed: a description for each key, in the order of first use
    num_candidates: int  # all documents that have a reason


def reading_list(study: Study, comparison: Comparison, texts: Mapping[str, str]) -> ReadingList:
    """For each reason to list a document, choose the clearest documents. `texts` maps ids to the available texts.

    Only the groups returned by `shown_groups` are included, because the list grows with the number of groups and pairs.
    """
    by_name = {group.name: group for group in study.groups}
    groups = [by_name[shown.name] for shown in shown_groups(comparison.groups)]
    reasons, descriptions = reasons_by_id(comparison, {group.name for group in groups})
    rows = [rows_of(group, list(reasons)) for group in groups]
    known = [id_ for id_ in reasons if any(id_ in each for each in rows)]
    chosen = in_turns(known, reasons)[:MAX_SHOWN]
    documents = []
    for id_ in chosen:
        found = [(group, each[id_]) for group, each in zip(groups, rows, strict=True) if id_ in each]
        first, row = found[0]
        documents.append(
            Document(
                id=id_,
                label=comparison.label_names[first.labels_N[row]],
                tokens=None if first.tokens_N is None else int(first.tokens_N[row]),
                tokens_read=None if first.tokens_N is None else tokens_read(found, int(first.tokens_N[row])),
                text=shortened(texts[id_]) if id_ in texts else None,
                reasons=tuple(reasons[id_]),
                predictions=tuple(prediction_of(group, row, comparison.label_names) for group, row in found),
            )
        )
    used = dict.fromkeys(reason for document in documents for reason in document.reasons)
    return ReadingList(tuple(documents), {reason: descriptions[reason] for reason in used}, num_candidates(comparison))


def reasons_by_id(comparison: Comparison, names: set[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the reasons to list each document id, and a description of each reason.

    For each reason, the clearest documents come first. Disagreements count only between the groups in `names`.
    """
    reasons: dict[str, list[str]] = {}
    descriptions = {LABEL: "suspected label error", ALL: "misclassified by every run"}
    for error in (comparison.label_errors or ())[: MAX_SHOWN // 4]:
        reasons.setdefault(error.id, []).append(LABEL)
    for id_ in comparison.wrong_for_all[: MAX_SHOWN // 4]:
        reasons.setdefault(id_, []).append(ALL)
    for each in comparison.disagreements:
        if {each.right, each.wrong} <= names:
            reason = f"{each.right} > {each.wrong}"
            descriptions[reason] = f"{each.right} right, {each.wrong} wrong, in every seed"
            for id_ in each.ids[:MAX_PER_PAIR]:
                reasons.setdefault(id_, []).append(reason)
    return reasons, descriptions


def num_candidates(comparison: Comparison) -> int:
    ids = {error.id for error in comparison.label_errors or ()} | set(comparison.wrong_for_all)
    return len(ids.union(*(each.ids for each in comparison.disagreements)))


def rows_of(group: Group, ids: Sequence[str]) -> dict[str, int]:
    """Return the row of each id in the group's predictions, which are sorted by id. Leave out ids without a row."""
    rows = np.searchsorted(group.ids, np.array(ids, dtype=object))
    return {id_: int(row) for id_, row in zip(ids, rows, strict=True) if row < len(group.ids) and group.ids[row] == id_}


def in_turns(ids: Sequence[str], reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Order documents so that their reasons take turns. Only the first reason of each document counts."""
    turns: Counter[str] = Counter()
    positions = {}
    for id_ in ids:
        positions[id_] = turns[reasons[id_][0]]
        turns[reasons[id_][0]] += 1
    return sorted(ids, key=positions.__getitem__)


def tokens_read(found: Sequence[tuple[Group, int]], tokens: int) -> int | None:
    lengths = {None if group.in_windows else group.max_length for group, _ in found}
    length = lengths.pop()
    return None if lengths or length is None else min(length, tokens)


def prediction_of(group: Group, row: int, label_names: Sequence[str]) -> GroupPrediction:
    probability_N = group.label_probability_N
    votes = Counter(int(run.predictions.predicted[row]) for run in group.runs)
    return GroupPrediction(
        group.name,
        predicted=label_names[votes.most_common(1)[0][0]],
        right=round(float(group.share_correct_N[row]), 3),
        probability=None if probability_N is None else round(float(probability_N[row]), 3),
    )


def shortened(text: str) -> str:
    """Return the start of the text, with HTML line breaks replaced by newlines."""
    text = LINE_BREAK.sub("\n", text[: 2 * MAX_TEXT_CHARACTERS])
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[:MAX_TEXT_CHARACTERS] + " …"
