"""One sentence per pair, in words for readers who are not statisticians."""

from typing import Any

from imdbcls.comparison.power import MAX_SEEDS


def verdict(pair: dict[str, Any]) -> str:
    """The sentence for a pair whose figures and corrected p-values are complete."""
    if pair["problem"]:
        sentence = f"{pair['a']} and {pair['b']} are not tested against each other: {pair['problem']}"
    elif pair["significant"]:
        sentence = better(pair)
    elif pair["equivalent"]:
        sentence = f"{pair['a']} and {pair['b']} are equivalent within {points(pair['margin'])} points"
    else:
        sentence = undecided(pair)
    if not pair["problem"] and not pair["seeds_varied"]:
        sentence += " (seeds were not varied: this is about these trained models, another seed may turn it round)"
    for flag in pair["flags"]:
        sentence += f" [{flag}]"
    return sentence


def better(pair: dict[str, Any]) -> str:
    winner, loser = (pair["a"], pair["b"]) if pair["difference"] > 0 else (pair["b"], pair["a"])
    says = "is better than" if pair["seeds_varied"] else "scored better, as trained here, than"
    sentence = f"{winner} {says} {loser} by {measured(pair)}, p {p_text(corrected_p(pair))} after correction"
    if pair["equivalent"]:
        sentence += f", but by less than {points(pair['margin'])} points: real and small"
    elif pair["seeds_varied"] and abs(pair["difference"]) < pair["minimum_detectable_difference"]:
        sentence += "; the study is small for this difference, which may be overstated"
    return sentence


def undecided(pair: dict[str, Any]) -> str:
    leader, other = (pair["a"], pair["b"]) if pair["difference"] >= 0 else (pair["b"], pair["a"])
    lead = f"{leader} leads {other} by {measured(pair)}"
    if not pair["seeds_varied"]:
        return f"undecided: {lead}; train more seeds"
    if pair["seeds_needed"] is None:
        return f"undecided: {lead}; even {MAX_SEEDS} seeds would likely not settle it on these test documents"
    return f"undecided: {lead}; if the difference is as seen, about {pair['seeds_needed']} seeds would settle it"


def kind(pair: dict[str, Any]) -> str:
    """The verdict in one word: `untested`, `better`, `here` (of these trained models), `equivalent` or `undecided`."""
    if pair["problem"]:
        return "untested"
    if pair["significant"] and not pair["seeds_varied"]:
        return "here"
    return "better" if pair["significant"] else "equivalent" if pair["equivalent"] else "undecided"


MOST_LISTED = 12  # names in one clause

CLAUSES = {  # of the headline
    "better": "is better than {}",
    "here": "scored better, as trained here, than {}",
    "worse": "is, on the documents that both answered, worse than {}",
    "equivalent": "is equivalent to {}",
    "undecided": "cannot be told from {} by these seeds and documents",
    "untested": "could not be tested against {}",
}


def headline(pairs: list[dict[str, Any]], ranked: list[str]) -> str:
    """The study's answer in a sentence or two: the first group against each of the others."""
    if len(ranked) == 1:
        return f"{ranked[0]} is the only group; there is nothing to compare it with."
    against: dict[str, list[str]] = {key: [] for key in CLAUSES}
    seeds_varied, flags = True, []
    for pair in pairs:
        if ranked[0] in (pair["a"], pair["b"]):
            seeds_varied &= pair["seeds_varied"] or bool(pair["problem"])
            flags += [flag for flag in pair["flags"] if flag not in flags]
            leads = pair["difference"] * (1 if pair["a"] == ranked[0] else -1) >= 0
            found = kind(pair) if leads or not pair["significant"] or pair["problem"] else "worse"
            against[found].append(pair["b"] if pair["a"] == ranked[0] else pair["a"])
    clauses = [text.format(listed(against[key])) for key, text in CLAUSES.items() if against[key]]
    answer = f"{ranked[0]} has the highest accuracy: it {'; it '.join(clauses)}."
    if not seeds_varied:
        answer += " That is of these trained models alone: seeds were not varied. Train several of each to learn more."
    if flags:
        answer += f" Mind that {listed(flags)}."
    return answer


def listed(names: list[str]) -> str:
    if len(names) > MOST_LISTED:
        names = [*names[: MOST_LISTED - 1], f"{len(names) - MOST_LISTED + 1:,} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def corrected_p(pair: dict[str, Any]) -> float | None:
    """The larger of the two corrected p-values: the verdict needs both."""
    values = [p for p in (pair["p_holm"], pair["p_hierarchical_holm"]) if p is not None]
    return max(values, default=None)


def measured(pair: dict[str, Any]) -> str:
    """The size of the difference ± half of its interval, in points: one decimal, two where the interval is narrow."""
    half_width = (pair["high"] - pair["low"]) / 2
    decimals = 1 if half_width >= 0.00095 else 2
    return f"{abs(100 * pair['difference']):.{decimals}f} ± {100 * half_width:.{decimals}f} points"


def points(fraction: float) -> str:
    """A margin as percentage points, without needless zeros."""
    return f"{100 * fraction:.3g}"


def p_text(p: float | None) -> str:
    """How a p-value is written after `p`: `= 0.012` or `< 0.001`."""
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
