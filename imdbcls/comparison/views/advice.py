"""Advice on how to get a verdict on undecided pairs, for the terminal, the page and the Markdown file."""

from collections.abc import Sequence

from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.wording import ENOUGH_SEEDS, LEARN_MORE, learned_nothing, limited_by_seeds, listed

MAX_NAMED = 4  # groups in one clause


def advice(comparison: Comparison) -> list[str]:
    """Return sentences on what would decide the undecided pairs of the best group: more seeds or more documents.

    Also name every group that needs a third seed. Pairs with a one-seed group are left out. Pairs of a planned study
    are also left out, because the plan fixes the number of seeds. If no group has learned anything, return only advice
    on training.
    """
    if learned_nothing(comparison):
        return [LEARN_MORE]
    best = comparison.groups[0].name
    undecided = [
        pair
        for pair in comparison.pairs
        if pair.outcome is Outcome.UNDECIDED and pair.seeds_varied and pair.look is None and best in (pair.a, pair.b)
    ]
    by_seeds = [pair for pair in undecided if pair.seeds_needed is not None]
    others = [pair for pair in undecided if pair.seeds_needed is None and not any(pair.missing_seeds)]
    by_few_seeds = [pair for pair in others if limited_by_seeds(pair)]
    by_documents = [pair for pair in others if not limited_by_seeds(pair)]
    sentences = []
    if two_seeds := dict.fromkeys(
        name
        for pair in comparison.pairs
        for name, missing in zip((pair.a, pair.b), pair.missing_seeds, strict=True)
        if missing and not pair.problem and pair.look is None
    ):
        sentences.append(
            f"Train a third seed of {listed(list(two_seeds), max_listed=MAX_NAMED)}: a group with two seeds cannot be "
            "called better or worse than a group with more seeds."
        )
    if by_seeds:
        seeds = max(pair.seeds_needed or 0 for pair in by_seeds)
        sentences.append(f"To get a verdict on {names_of(by_seeds, best)}, train about {seeds} seeds per group.")
    if by_few_seeds:
        sentences.append(
            f"To get a verdict on {names_of(by_few_seeds, best)}, first train at least {ENOUGH_SEEDS} seeds per group."
        )
    if by_documents:
        or_margin = "" if comparison.margin is None else ", or a larger margin"
        sentences.append(f"To get a verdict on {names_of(by_documents, best)}, use more test documents{or_margin}.")
    return sentences


def names_of(pairs: Sequence[PairResult], best: str) -> str:
    return f"{best} against {listed([pair.other(best) for pair in pairs], max_listed=MAX_NAMED)}"


def collapsed(comparison: Comparison) -> list[str]:
    """Return a list: one sentence on the seeds that predict one class for nearly all documents, or nothing."""
    counts = [
        f"{group.num_collapsed} of {len(group.seeds)} seeds of {group.name}"
        for group in comparison.groups
        if group.num_collapsed
    ]
    return [f"Collapsed to one class: {listed(counts, max_listed=MAX_NAMED)}."] if counts else []
