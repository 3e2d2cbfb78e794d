"""The headline and the verdicts of a comparison as sentences, for readers who are not statisticians."""

from collections.abc import Sequence

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.power import MAX_SEEDS
from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.quantities import interval_text, margin_text, unit_of, value_text
from imdbcls.runtime.text_table import joined

MAX_LISTED = 12  # names in one clause
FEW_SEEDS = 2  # with so few, the variance over seeds is too uncertain to predict what more seeds would bring
ENOUGH_SEEDS = 5  # advised number of seeds per group, if a group has few
LEARN_MORE = "Train longer, or raise the learning rate (lr)."  # advice if `learned_nothing`
FEW_DOCUMENTS = 30  # with fewer, normal approximations are poor
FEW_DF = 30.0  # with fewer degrees of freedom, Student's t is clearly wider than the normal distribution
# Clauses of the headline about the best group, by verdict; {} is replaced by the other groups. "unlikely": the pair is
# undecided, but the short list rules out the other group.
CLAUSES = {
    "better": "is better than {}",
    "here": "scored better than {} in these runs",
    "worse": "is worse than {} on the documents that both groups share",
    "equivalent": "is equivalent to {}",
    "unlikely": "is probably better than {}: a joint test shows with 95 % confidence that {they} not the best, but "
    "the pairwise {tests} not significant",
    "undecided": "cannot be distinguished from {} with these seeds and documents",
    "untested": "could not be tested against {}",
}
WORDS = {  # the verdict in one or two words
    Outcome.BETTER: "better",
    Outcome.BETTER_HERE: "better here",
    Outcome.EQUIVALENT: "equivalent",
    Outcome.UNDECIDED: "undecided",
    Outcome.UNTESTED: "not tested",
}


def verdict(pair: PairResult, metric: Metric) -> str:
    """Return the verdict on one pair, with its caveats."""
    sentence = decision(pair, metric)
    if pair.outcome is not Outcome.UNTESTED and not pair.seeds_varied:
        sentence += (
            " (a group has one seed, so the verdict holds only for these trained models; another seed may reverse it)"
        )
    if pair.outcome is not Outcome.UNTESTED:
        sentence += few_documents(pair)
    if any(pair.num_collapsed) and pair.outcome is not Outcome.UNTESTED:
        sentence += f". {collapse(pair, metric)}"
    return sentence + "".join(f" [{flag}]" for flag in pair.flags)


def decision(pair: PairResult, metric: Metric) -> str:
    """Return the verdict without its caveats."""
    match pair.outcome:
        case Outcome.UNTESTED:
            return f"{pair.a} and {pair.b} are not tested against each other: {pair.problem}"
        case Outcome.BETTER | Outcome.BETTER_HERE:
            return better(pair, metric)
        case Outcome.EQUIVALENT:
            return f"{pair.a} and {pair.b} are equivalent within {within(pair.margin, metric)}"
        case Outcome.UNDECIDED:
            return undecided(pair, metric)


def better(pair: PairResult, metric: Metric) -> str:
    other, lead = pair.other(pair.leader), measured(pair, metric, f"; p {p_text(pair.p_holm)}")
    if pair.outcome is Outcome.BETTER:
        sentence = f"{pair.leader} is better than {other} by {lead}"
    else:
        sentence = f"{pair.leader} scored better than {other} in these runs by {lead}"
    detectable = pair.minimum_detectable_difference
    if pair.equivalent:
        sentence += f"; the difference is significant, but smaller than the margin of {within(pair.margin, metric)}"
    elif detectable is not None and abs(pair.difference) < detectable:
        sentence += (
            "; the study would detect a true difference of this size in less than 80 % of repetitions, so the "
            "difference may be overestimated"
        )
    return sentence


def undecided(pair: PairResult, metric: Metric) -> str:
    lead = f"undecided: {lead_text(pair, metric)}"
    if not pair.seeds_varied:
        return f"{lead}; train more seeds"
    if pair.look is not None:
        return f"{lead}; {pair.look.outlook}"
    if any(pair.missing_seeds):
        name = pair.a if pair.missing_seeds[0] else pair.b
        return (
            f"{lead}; {name} has only two seeds, and the other group has more, so neither can be called better: train "
            f"another seed of {name}"
        )
    chance = 0.0 if pair.chance_to_settle is None else pair.chance_to_settle
    if limited_by_seeds(pair):
        return (
            f"{lead}; the number of seeds is too small for a narrow interval: train at least {ENOUGH_SEEDS} per group"
        )
    if pair.seeds_needed is None:
        or_margin = "" if pair.margin is None else ", or a larger margin"
        return (
            f"{lead}; even with {MAX_SEEDS} seeds per group, the probability of a verdict is {percent_text(chance)}: "
            f"use more test documents{or_margin}"
        )
    return f"{lead}; with {pair.seeds_needed} seeds per group, the probability of a verdict is {percent_text(chance)}"


def limited_by_seeds(pair: PairResult) -> bool:
    """Return whether to advise more seeds although it is unknown how many seeds would suffice.

    This is the case if a group has at most `FEW_SEEDS` seeds, and the degrees of freedom of the test are below `FEW_DF`
    and below half the number of shared documents.
    """
    df = pair.degrees_of_freedom
    few_df = df is not None and df < min(FEW_DF, pair.shared_documents / 2)
    return pair.seeds_needed is None and min(pair.num_seeds) <= FEW_SEEDS and few_df


def lead_text(pair: PairResult, metric: Metric, more: str = "") -> str:
    """Return a clause that says which group leads by how much, with the simultaneous interval but without a verdict."""
    if pair.difference == 0:
        return f"{pair.a} and {pair.b} have the same {metric.title} ({simultaneous_text(pair, metric)}{more})"
    return f"{pair.leader} leads {pair.other(pair.leader)} by {measured(pair, metric, more)}"


def few_documents(pair: PairResult) -> str:
    """Return a clause if the groups share too few documents for a reliable test, or an empty string."""
    return f"; only {pair.shared_documents} documents" if pair.shared_documents < FEW_DOCUMENTS else ""


def brief_verdict(pair: PairResult, metric: Metric) -> tuple[str, str]:
    """Return the verdict on one pair as a word of `WORDS` and a clause that is shorter than `verdict`."""
    word, clause = brief_clause(pair, metric)
    return word, clause if pair.outcome is Outcome.UNTESTED else f"{clause}{few_documents(pair)}"


def brief_clause(pair: PairResult, metric: Metric) -> tuple[str, str]:
    """Return `brief_verdict` without the clause about few documents."""
    word = WORDS[pair.outcome]
    match pair.outcome:
        case Outcome.UNTESTED:
            return word, f"{pair.a} and {pair.b}: {pair.problem}"
        case Outcome.BETTER | Outcome.BETTER_HERE:
            clause = lead_text(pair, metric, f"; p {p_text(pair.p_holm)}")
            return (
                word,
                f"{clause}, less than the margin of {within(pair.margin, metric)}" if pair.equivalent else clause,
            )
        case Outcome.EQUIVALENT:
            return word, lead_text(pair, metric)
        case Outcome.UNDECIDED:
            return word, f"{lead_text(pair, metric)}{needs_seeds(pair)}"


def needs_seeds(pair: PairResult) -> str:
    """Return a clause that names the groups with too few seeds for the verdict "better", or an empty string."""
    if any(pair.missing_seeds):
        name = pair.a if pair.missing_seeds[0] else pair.b
        return f"; {name} has two seeds and needs a third"
    single = [name for name, seeds in zip((pair.a, pair.b), pair.num_seeds, strict=True) if seeds == 1]
    return f"; {joined(single)} {'has' if len(single) == 1 else 'have'} one seed" if single else ""


def collapse(pair: PairResult, metric: Metric) -> str:
    """Return the second part of a verdict: which seeds collapsed to one class, and the result without them."""
    counts = [
        f"{name} in {collapsed} of {seeds} seeds"
        for name, collapsed, seeds in zip((pair.a, pair.b), pair.num_collapsed, pair.num_seeds, strict=True)
        if collapsed
    ]
    text = f"Collapsed to one class: {listed(counts)}"
    rest = pair.without_collapsed
    if rest is None:
        return text
    first, second = (pair.a, pair.b) if (rest.difference >= 0) == pair.higher_is_better else (pair.b, pair.a)
    lead = amount(metric, rest.difference, rest.simultaneous_low, rest.simultaneous_high)
    match rest.outcome:
        case Outcome.BETTER:
            found = f"{first} is better than {second} by {lead}"
        case Outcome.BETTER_HERE:
            found = f"{first} scored better than {second} by {lead} in these runs"
        case Outcome.EQUIVALENT:
            found = f"the groups are equivalent within {within(pair.margin, metric)}"
        case _:
            found = f"{first} leads {second} by {lead}, which is not significant"
    return f"{text}. Without these seeds, {found}"


def scope(comparison: Comparison) -> str:
    """Return a phrase that says for how many tests p-values and simultaneous intervals are corrected."""
    return "all pairs" if comparison.plan is None else "all pairs and all planned looks"


def without_a_model(metric: Metric) -> str:
    """Return a phrase for the baseline, which predicts without a model. Its metrics are in `Comparison.baseline`."""
    return f"predicting the {'class frequencies' if metric.needs_probabilities else 'most frequent class'}"


def within(margin: float | None, metric: Metric) -> str:
    """Return the equivalence margin with its unit, or an empty string if equivalence is not tested."""
    if margin is None:
        return ""
    text = f"{margin_text(metric, margin)}{unit_of(metric)}"
    return "1 point" if text == "1 points" else text


def headline(comparison: Comparison, max_listed: int = MAX_LISTED) -> str:
    """Return the result of the study in a few sentences, followed by the cautions.

    At most `max_listed` names are listed in one clause.
    """
    return " ".join([ranking_text(comparison, max_listed), *comparison.cautions])


def ranking_text(comparison: Comparison, max_listed: int = MAX_LISTED) -> str:
    """Return a few sentences that compare the best group with every other group."""
    if learned_nothing(comparison):
        return f"No group has a higher accuracy than predicting the most frequent class. {LEARN_MORE}"
    best = comparison.groups[0].name
    if len(comparison.groups) == 1:
        return f"{best} is the only group, so there is nothing to compare it with."
    pairs = [pair for pair in comparison.pairs if best in (pair.a, pair.b)]
    others: dict[str, list[str]] = {key: [] for key in CLAUSES}
    for pair in pairs:
        others[kind_of(pair, best, comparison.short_list)].append(pair.other(best))
    clauses = []
    for key, clause in CLAUSES.items():
        if names := others[key]:
            is_one = len(names) == 1
            they = f"{names[0]} is" if is_one else "they are"
            tests = f"test of {best} and {names[0]} is" if is_one else "tests are"
            clauses.append(clause.format(listed(names, max_listed=max_listed), they=they, tests=tests))
    text = f"{ranking_sentence(comparison, max_listed)} {f'. {best} '.join(clauses)}."
    if len(comparison.groups) > 2 and comparison.short_list is not None and not others["unlikely"]:
        text += f" {short_list(comparison, max_listed)}"
    if not all(pair.seeds_varied or pair.problem for pair in pairs):
        text += (
            " For a group with one seed, the result holds only for this trained model: another seed may give another "
            "result. Train several seeds of each group."
        )
    if flags := dict.fromkeys(flag for pair in pairs for flag in pair.flags):
        text += f" Note: {listed(list(flags))}."
    return text


def learned_nothing(comparison: Comparison) -> bool:
    """Return whether groups are ranked by accuracy and none is better than predicting the most frequent class.

    If the classes have unequal sizes, such a group may still be good in another metric.
    """
    is_ranked = comparison.metric.name == "accuracy" and len(comparison.groups) > 1
    return is_ranked and all(group.accuracy.mean <= comparison.baseline["test/accuracy"] for group in comparison.groups)


def kind_of(pair: PairResult, best: str, possibly_best: Sequence[str] | None) -> str:
    """Return the key in `CLAUSES` for the verdict on the best group and another group."""
    if pair.significant and pair.leader != best:
        return "worse"
    is_ruled_out = possibly_best is not None and pair.other(best) not in possibly_best
    return "unlikely" if pair.outcome is Outcome.UNDECIDED and is_ruled_out else pair.outcome


def ranking_sentence(comparison: Comparison, max_listed: int) -> str:
    """Return a sentence that names the groups with the best metric, and the word "It", which begins the next sentence.

    "It" refers to the first of these groups.
    """
    title = comparison.metric.title
    extreme = "highest" if comparison.metric.higher_is_better else "lowest"
    first, *others = best_groups(comparison)
    if not others:
        return f"{first} has the {extreme} {title}. It"
    equal = listed(others, max_listed=max_listed)
    if len(others) + 1 == len(comparison.groups):
        return f"{first} has the same {title} as {equal} on the test documents. It"
    return f"{first} shares the {extreme} {title} with {equal}. It"


def best_groups(comparison: Comparison) -> list[str]:
    """Return the name of the best group, followed by the names of groups with exactly the same metric."""
    return [group.name for group in comparison.groups if group.rank == 1]


def short_list(comparison: Comparison, max_listed: int = MAX_LISTED) -> str:
    """Return a sentence about the groups that may be the best, or an empty string if they are not known."""
    names = comparison.short_list
    if names is None:
        return ""
    if len(names) == len(comparison.groups):
        return "No group can be ruled out as the best."
    if len(names) == 1:
        return "Every other group can be ruled out as the best (95 % confidence)."
    return f"The best may be {listed(names, 'or', max_listed)} (95 % confidence)."


def listed(names: Sequence[str], word: str = "and", max_listed: int = MAX_LISTED) -> str:
    """Join names with commas and a word. If there are more than `max_listed`, replace the last names by a number."""
    if len(names) > max_listed:
        names = [*names[: max_listed - 1], f"{len(names) - max_listed + 1:,} others"]
    return joined(names, word)


def simultaneous_text(pair: PairResult, metric: Metric) -> str:
    return interval_text(metric, pair.simultaneous_low, pair.simultaneous_high)


def measured(pair: PairResult, metric: Metric, more: str = "") -> str:
    """Return the size of the difference, with its simultaneous interval."""
    return amount(metric, pair.difference, pair.simultaneous_low, pair.simultaneous_high, more)


def amount(metric: Metric, difference: float, low: float, high: float, more: str = "") -> str:
    """Format a difference and its interval: `0.84 points (0.12 to 1.56)`. Negate both if the difference is negative."""
    if difference < 0:
        difference, low, high = -difference, -high, -low
    value, ends = value_text(metric, difference), interval_text(metric, low, high)
    return f"{value}{unit_of(metric)} ({ends}{more})"


def detectable_text(metric: Metric, difference: float) -> str:
    """Return a detectable difference with its unit. It can exceed 100 points if seeds give very different results."""
    if metric.is_percentage and difference >= 1:
        return "more than 100 points"
    return f"{value_text(metric, difference)}{unit_of(metric)}"


def percent_text(share: float) -> str:
    """Format a probability for a sentence, rounded to percent: `31 %`, `less than 1 %` or `more than 99 %`."""
    return "less than 1 %" if share < 0.005 else "more than 99 %" if share > 0.995 else f"{100 * share:.0f} %"


def p_text(p: float | None) -> str:
    """Format a p-value for a sentence, to follow the letter p: `= 0.012` or `< 0.001`; "not tested" for None."""
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def p_cell(p: float | None) -> str:
    """Format a p-value for a table: `0.012` or `< 0.001`; "not tested" for None."""
    return p_text(p).removeprefix("= ")
