"""Find documents to read: disagreements between groups, mistakes that all runs share, and suspected label errors."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.results import Disagreement, LabelError

CONFIDENT = 0.9  # a prediction is confident if its probability, averaged over seeds, is at least this


def label_errors(groups: Sequence[Group]) -> tuple[LabelError, ...] | None:
    """Return suspected label errors, the most certain first.

    A label is suspected if all groups predict the same other class, each with a mean probability of at least
    `CONFIDENT`. The rule follows confident learning (Northcutt et al. 2021, JAIR 70), with the groups as an ensemble.
    Groups that do not have the documents of the first group are ignored. Return None if one of the remaining groups has
    no probabilities.
    """
    ensemble = with_documents_of_first(groups)
    if not all(group.has_probabilities for group in ensemble):
        return None
    lowest_NC = np.stack([group.mean_probabilities_NC for group in ensemble]).min(axis=0)
    suspects_N = lowest_NC.argmax(axis=1)
    confidence_N = lowest_NC.max(axis=1)
    labels_N = ensemble[0].labels_N
    found = np.flatnonzero((suspects_N != labels_N) & (confidence_N >= CONFIDENT))
    found = found[np.argsort(-confidence_N[found], kind="stable")]
    return tuple(
        LabelError(
            id=str(ensemble[0].ids[i]),
            label=int(labels_N[i]),
            suspected=int(suspects_N[i]),
            least_confidence=float(confidence_N[i]),
        )
        for i in found
    )


def disagreements(groups: Sequence[Group]) -> tuple[Disagreement, ...]:
    """Return the documents that one group gets right and another gets wrong, for each ordered pair of groups.

    A document counts if every seed of the first group is right and every seed of the second group is wrong.

    Documents are sorted by the difference in the probability of the label, largest first. For a group without
    probabilities, 0 is used. If neither group has probabilities, documents are sorted by id. Pairs of groups with
    different documents are skipped.
    """
    found = []
    for a, b in combinations(groups, 2):
        if not a.has_documents_of(b):
            continue
        share_a, share_b = a.share_correct_N, b.share_correct_N
        gap_N = label_probabilities(a) - label_probabilities(b)
        for right, wrong, chosen_N, sign in (
            (a, b, (share_a == 1) & (share_b == 0), 1),
            (b, a, (share_b == 1) & (share_a == 0), -1),
        ):
            rows = np.flatnonzero(chosen_N)
            rows = rows[np.argsort(-sign * gap_N[rows], kind="stable")]
            found.append(Disagreement(right.name, wrong.name, tuple(str(right.ids[i]) for i in rows)))
    return tuple(found)


def wrong_for_all(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return the ids of the documents that every run misclassifies.

    The ids are sorted by the mean probability of the label, lowest first, or by id if no group has probabilities.
    Groups that do not have the documents of the first group are ignored.
    """
    ensemble = with_documents_of_first(groups)
    rows = np.flatnonzero(np.max([group.correct_SN.max(axis=0) for group in ensemble], axis=0) == 0)
    probability_N = np.mean([label_probabilities(group) for group in ensemble], axis=0)
    return tuple(str(ensemble[0].ids[i]) for i in rows[np.argsort(probability_N[rows], kind="stable")])


def label_probabilities(group: Group) -> np.ndarray:
    """Return the probability of each document's label, averaged over seeds, or zeros without probabilities."""
    probability_N = group.label_probability_N
    return np.zeros(len(group.ids)) if probability_N is None else probability_N


def with_documents_of_first(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.has_documents_of(groups[0])]
