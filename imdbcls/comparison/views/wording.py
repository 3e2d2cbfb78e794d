"""The headline and the verdicts of a comparison as sentences, for readers who are not statisticians."""

from collections.abc import Sequence

from imdbcls.comparison.power import MAX_SEEDS
from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.verdicts import Outcome

MAX_LISTED = 12  # names in one clause
CLAUSES = {  # clauses of the headline, by the verdict on the best group and the groups named in {}
    "better": "is better than {}",
    "here": "scored higher than {} in these runs",
    "worse": "is worse than {} on the documents that both groups share",
    "equivalent": "is equivalent to {}",
    "undecided": "cannot be distinguished from {} with these seeds and documents",
    "untested": "could not be tested against {}",
}


def verdict(pair: PairResult) -> str:
    """Return the verdict on one pair, with its caveats."""
    sentence = decision(pair)
    if pair.outcome is not Outcome.UNTESTED and not pair.seeds_varied:
        sentence += " (seeds were not varied, so this holds only for these trained models; another seed may reverse it)"
    return sentence + "".join(f" [{flag}]" for flag in pair.flags)


def decision(pair: PairResult) -> str:
    """Return the verdict without its caveats."""
    match pair.outcome:
        case Outcome.UNTESTED:
            return f"{pair.a} and {pair.b} are not tested against each other: {pair.problem}"
        case Outcome.BETTER | Outcome.BETTER_HERE:
            return better(pair)
        case Outcome.EQUIVALENT:
            return f"{pair.a} and {pair.b} are equivalent within {points(pair.margin)} points"
        case Outcome.UNDECIDED:
            return undecided(pair)


def better(pair: PairResult) -> str:
    other, p = pair.other(pair.leader), f"(p {p_text(pair.corrected_p)} after Holm correction)"
    if pair.outcome is Outcome.BETTER:
        sentence = f"{pair.leader} is better than {other} by {measured(pair)} {p}"
    else:
        sentence = f"{pair.leader} scored higher than {other} by {measured(pair)} in these runs {p}"
    detectable = pair.minimum_detectable_difference
    if pair.equivalent:
        sentence += f"; the difference is significant, but smaller than the margin of {points(pair.margin)} points"
    elif detectable is not None and abs(pair.difference) < detectable:
        sentence += "; the study is underpowered for a difference of this size, so the difference may be overestimated"
    return sentence


def undecided(pair: PairResult) -> str:
    lead = f"undecided: {pair.leader} leads {pair.other(pair.leader)} by {measured(pair)}"
    if not pair.seeds_varied:
        return f"{lead}; train more seeds"
    if pair.seeds_needed is None:
        return f"{lead}; even {MAX_SEEDS} seeds per group would probably not decide it on these test documents"
    return (
        f"{lead}; if the observed difference is the true one, about {pair.seeds_needed} seeds per group would decide it"
    )


def headline(comparison: Comparison) -> str:
    """Return the result of the study in a few sentences: the best group compared with every other group."""
    best = comparison.groups[0].name
    if len(comparison.groups) == 1:
        return f"{best} is the only group, so there is nothing to compare it with."
    pairs = [pair for pair in comparison.pairs if best in (pair.a, pair.b)]
    others: dict[str, list[str]] = {key: [] for key in CLAUSES}
    for pair in pairs:
        is_worse = pair.outcome in (Outcome.BETTER, Outcome.BETTER_HERE) and pair.leader != best
        others["worse" if is_worse else pair.outcome].append(pair.other(best))
    clauses = [clause.format(listed(others[key])) for key, clause in CLAUSES.items() if others[key]]
    text = f"{best} has the highest accuracy. It {'; it '.join(clauses)}."
    if not all(pair.seeds_varied or pair.problem for pair in pairs):
        text += (
            " For a group with one seed, the result holds only for this trained model: another seed may give another "
            "result. Train several seeds of each group."
        )
    if flags := dict.fromkeys(flag for pair in pairs for flag in pair.flags):
        text += f" Note: {listed(list(flags))}."
    return text


def listed(names: Sequence[str]) -> str:
    """Join names with commas and "and". If there are more than `MAX_LISTED`, replace the last ones by their number."""
    if len(names) > MAX_LISTED:
        names = [*names[: MAX_LISTED - 1], f"{len(names) - MAX_LISTED + 1:,} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def measured(pair: PairResult) -> str:
    """Return the difference ± half the width of its interval, in points. Narrow intervals get a second decimal."""
    half_width = (pair.high - pair.low) / 2
    decimals = 1 if half_width >= 0.00095 else 2
    return f"{abs(100 * pair.difference):.{decimals}f} ± {100 * half_width:.{decimals}f} points"


def points(fraction: float) -> str:
    """Format a margin in percentage points, without trailing zeros."""
    return f"{100 * fraction:.3g}"


def p_text(p: float | None) -> str:
    """Format a p-value for a sentence, to follow the letter p: `= 0.012` or `< 0.001`."""
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def p_cell(p: float | None) -> str:
    """Format a p-value for a table: `0.012` or `< 0.001`."""
    return p_text(p).removeprefix("= ")
