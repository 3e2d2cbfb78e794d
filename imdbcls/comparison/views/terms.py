"""Short definitions of the terms in column titles, each linked to the Method section of the page."""

import re
from typing import NamedTuple


class Term(NamedTuple):
    anchor: str  # the longer definition has the id `term-<anchor>` in method.html
    definition: str


TERMS = {  # keyed by a regular expression that matches the whole column title
    r"95 % interval": Term(
        "interval",
        "If the study were repeated with other documents and seeds, 95 % of such intervals would contain the true "
        "value.",
    ),
    r"sd over seeds": Term("sd", "Standard deviation over seeds: how much one run differs from another of its group."),
    r"ensemble": Term("ensemble", "The metric of the probabilities averaged over all seeds of the group."),
    r"(macro )?F1( %)?": Term("f1", "Harmonic mean of precision and recall."),
    r"AUROC( %)?": Term(
        "f1",
        "Probability that a document of a class gets a higher score for this class than a document of another class.",
    ),
    r"simultaneous": Term(
        "simultaneous", "With 95 % confidence, every one of these intervals contains the true difference of its pair."
    ),
    r"p \(Holm\)": Term(
        "holm",
        "Probability of a difference at least this large if the groups were equal, raised if several pairs are tested.",
    ),
    r"within .*": Term("equivalent", "Whether the data show that the difference is smaller than the margin."),
    r"detectable": Term("detectable", "The smallest true difference that this study detects with 80 % power."),
    r"McNemar.*": Term(
        "mcnemar", "Exact test of two trained models with the same seed. It does not affect the verdict."
    ),
    r"Pareto front": Term(
        "pareto", "The costs for which the group is on the front: every other group is worse or costs more."
    ),
    r"ECE": Term("ece", "Expected calibration error: average gap between confidence and accuracy. Lower is better."),
    r"if calibrated": Term("ece", "The ECE that a perfectly calibrated model with these probabilities would show."),
    r"temperature": Term("temperature", "The number that divides the logits to calibrate them, fitted on validation."),
    r"ECE scaled": Term("temperature", "The ECE after the logits are divided by the temperature. Lower is better."),
    r"Brier": Term("ece", "Squared distance between the probabilities and the true class. Lower is better."),
    r"loss": Term("ece", "Negative logarithm of the probability of the label. Lower is better."),
    r"precision %": Term("f1", "Share of the documents predicted as this class that have this label."),
    r"recall %": Term("f1", "Share of the documents with this label that are predicted as this class."),
}


def term_of(title: str) -> Term | None:
    """Return the term in a column title, or None if the title needs no definition."""
    return next((term for pattern, term in TERMS.items() if re.fullmatch(pattern, title)), None)
