"""A paragraph about the methods and the results of a comparison, to paste into a paper."""

from collections.abc import Iterator, Sequence

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.statistics import MIN_POOLED
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.facts import clusters_text, span
from imdbcls.comparison.views.quantities import interval_text, percentage_sign, unit_of, value_text
from imdbcls.comparison.views.wording import best_groups, detectable_text, listed, p_text, within, without_a_model

MAX_EFFECTS = 6  # differences in one sentence
MAX_NAMED = 12  # groups or clauses in one sentence


def paragraph(comparison: Comparison) -> str:
    """Return the paragraph: design, tests and corrections, results with effects and intervals, power, limitations."""
    sentences = [design(comparison)]
    if comparison.pairs:
        sentences += methods(comparison)
    sentences.append(best(comparison))
    if comparison.pairs:
        sentences += [*effects(comparison), *other_pairs(comparison), *short_list(comparison), *power(comparison)]
    return " ".join([*sentences, *limitations(comparison)])


def design(comparison: Comparison) -> str:
    """Return a sentence on what is compared or evaluated: models, seeds, documents and clusters."""
    facts, groups = comparison.facts, comparison.groups
    encoder = f" (encoder: {span(facts['encoder'])})" if "encoder" in facts else ""
    names = f"{listed([group.name for group in groups], max_listed=MAX_NAMED)}{encoder}"
    models = f"We compare {len(groups):,} models, {names}" if len(groups) > 1 else f"We evaluate {names}"
    return f"{models}, {trained_text(comparison)}, on {documents_text(comparison)}."


def documents_text(comparison: Comparison) -> str:
    """Return a phrase with the number of test documents, the data and the number of clusters."""
    facts = comparison.facts
    data = f" of the {span(facts['data'])} dataset" if "data" in facts else ""
    clusters = f" ({clusters_text(facts)})" if "test_clusters" in facts else ""
    return f"{span(facts['test_documents'])} test {plural('document', facts['test_documents'][-1])}{data}{clusters}"


def trained_text(comparison: Comparison) -> str:
    """Return a phrase on the number of seeds of the groups, such as `each trained with 3 to 5 seeds`."""
    seeds = sorted({len(group.seeds) for group in comparison.groups})
    each = "each trained" if len(comparison.groups) > 1 else "trained"
    return (
        f"{each} once" if seeds == [1] else f"{each} with {' to '.join(map(str, [*seeds[:1], *seeds[1:][-1:]]))} seeds"
    )


def methods(comparison: Comparison) -> Iterator[str]:
    """Yield sentences on the tests, the correction for the number of pairs, and the equivalence margin."""
    metric, pairs = comparison.metric, tested(comparison)
    if not pairs:
        return
    several = [pair.seeds_varied for pair in pairs]
    over_documents = "an exact permutation test" if metric.name == "accuracy" else "a t-test"
    test = "a t-test that accounts for the variation over documents and seeds (Obuchowski and Rockette, 1995)"
    if not any(several):
        test = f"{over_documents} over documents"
    elif not all(several):
        test += f", or with {over_documents} over documents if one of the two models has a single seed"
    each = f"For each of the {len(pairs):,} pairs of models, we" if len(pairs) > 1 else "We"
    yield f"{each} test the difference in {metric.title} at a level of 5 % with {test}{units(comparison)}."
    yield from variances(comparison)
    yield from planned_looks(comparison)
    if len(pairs) > 1:
        yield (
            f"All p-values are corrected for the {len(pairs):,} pairs with Holm's method, and the intervals of "
            "differences hold, with 95 % confidence, for all pairs together (Bonferroni)."
        )
    if comparison.margin is None:
        yield "We do not test for equivalence."
    else:
        corrected = " after Holm's correction" if len(pairs) > 1 else ""
        yield (
            f"Two models count as equivalent if two one-sided tests (Schuirmann, 1987) show{corrected} that they "
            f"differ by less than {within(comparison.margin, metric)}."
        )


def planned_looks(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence on the looks of a planned study."""
    plan = comparison.plan
    if plan is None:
        return
    spending = "O'Brien-Fleming spending" if plan.num_groups == 2 else "a power spending function"
    equivalent = [] if comparison.margin is None else ["equivalent to the best model"]
    futile = [] if plan.futility is None else ["unlikely to get a verdict"]
    reasons = ["significantly worse than another model", *equivalent, *futile]
    yield (
        "The study was group sequential, with a plan that was fixed before the first look: each model was tested with "
        f"{plan.looks[0]} to {plan.max_seeds} seeds, after each seed, and got no further seeds once it "
        f"was {listed(reasons, 'or')}. Error spending (Lan and DeMets, 1983; {spending}) keeps the error rate over all "
        "looks at 5 %, and the intervals of differences are repeated confidence intervals (Jennison and Turnbull, "
        f"1989). {len(plan.looks_done):,} of {len(plan.looks):,} looks were taken. Differences that stopped the "
        "training of a model are overestimated on average."
    )


def variances(comparison: Comparison) -> Iterator[str]:
    """Yield sentences on the estimates of the variance over documents and the variance between seeds."""
    if comparison.metric.name in ("f1", "auroc"):
        yield "The variance over documents is estimated with the infinitesimal jackknife (Efron, 1982)."
    several = sum(len(group.seeds) > 1 for group in comparison.groups)
    if several > 1:
        yield (
            "We set the variance between the seeds of a model to at least the variance that the random choice of "
            "documents causes."
        )
        if several >= MIN_POOLED:
            yield "A variance that is still below the mean over the models is raised towards this mean."


def units(comparison: Comparison) -> str:
    """Return a clause on the clusters that the tests treat as units, or an empty string if there are no clusters."""
    if "test_clusters" not in comparison.facts:
        return ""
    names = comparison.facts.get("cluster_name", ())
    if len(names) == 1:  # "films" or "values of customer"
        plural, *rest = str(names[0]).split(" ", 1)
        together = f"the documents of one {' '.join([plural.removesuffix('s'), *rest])}"
    else:
        together = "related documents"
    return f"; {together} are treated as one unit"


def best(comparison: Comparison) -> str:
    """Return a sentence with the metric of the best group, and with the metric of the baseline if it is defined."""
    metric, first = comparison.metric, comparison.groups[0]
    value = f"{value_text(metric, first.primary.mean)}{percentage_sign(metric)}"
    interval = f"95 % confidence interval {interval_text(metric, first.primary.low, first.primary.high)}"
    if len(comparison.groups) == 1:
        text = f"The {metric.title} of {first.name} is {value} ({interval})"
    else:
        extreme = "highest" if metric.higher_is_better else "lowest"
        equal = best_groups(comparison)
        text = f"{first.name} has the {extreme} {metric.title}, {value} ({interval})"
        if len(equal) > 1:
            others = listed(equal[1:], max_listed=MAX_NAMED)
            text = f"{first.name} shares the {extreme} {metric.title} with {others}, {value} ({interval})"
    baseline = comparison.baseline.get(metric.key)
    if baseline is None:
        return f"{text}."
    return f"{text}; {without_a_model(metric)} gives {value_text(metric, baseline)}{percentage_sign(metric)}."


def effects(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence for each kind of verdict on the pairs of the best group, with the differences of these pairs."""
    metric, name = comparison.metric, comparison.groups[0].name
    by_kind: dict[str, list[PairResult]] = {}
    for pair in tested(comparison):
        if name in (pair.a, pair.b):
            is_worse = pair.significant and pair.leader != name
            by_kind.setdefault("worse" if is_worse else pair.outcome, []).append(pair)
    for kind, pairs in by_kind.items():
        word = "or" if kind is Outcome.UNDECIDED else "and"
        found = listed([effect(pair, name, metric) for pair in pairs], word, MAX_EFFECTS)
        match kind:
            case Outcome.BETTER | Outcome.BETTER_HERE:
                yield f"{name} is significantly better than {found}."
            case "worse":
                yield f"{name} is significantly worse than {found}, on the documents that both models share."
            case Outcome.EQUIVALENT:
                yield f"{name} is equivalent to {found}."
            case _:
                yield f"{name} is not significantly better than {found}."


def effect(pair: PairResult, name: str, metric: Metric) -> str:
    """Return the name of the other group in the pair, with the difference, its interval and its p-value.

    The difference is the metric of the group `name` minus the metric of the other group.
    """
    difference, low, high = pair.difference, pair.simultaneous_low, pair.simultaneous_high
    if name != pair.a:
        difference, low, high = -difference, -high, -low
    is_equivalent = pair.outcome is Outcome.EQUIVALENT
    p = f"TOST p {p_text(pair.p_equivalence_holm)}" if is_equivalent else f"p {p_text(pair.p_holm)}"
    return (
        f"{pair.other(name)} (difference {value_text(metric, difference)}{unit_of(metric)}, 95 % interval "
        f"{interval_text(metric, low, high)}, {p})"
    )


def other_pairs(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence that counts the verdicts on the pairs without the best group, if there are such pairs."""
    name = comparison.groups[0].name
    rest = [pair for pair in tested(comparison) if name not in (pair.a, pair.b)]
    if not rest:
        return
    significant = sum(pair.significant for pair in rest)
    equivalent = sum(pair.outcome is Outcome.EQUIVALENT for pair in rest)
    undecided = len(rest) - significant - equivalent
    counts = [
        f"{count:,} {text if count == 1 else texts}"
        for count, text, texts in (
            (significant, "differs significantly", "differ significantly"),
            (equivalent, "is equivalent", "are equivalent"),
            (undecided, "remains undecided", "remain undecided"),
        )
        if count
    ]
    if len(rest) == 1:
        yield f"The other pair, {rest[0].a} and {rest[0].b}, {counts[0].removeprefix('1 ')}."
    else:
        yield f"Of the other {len(rest):,} pairs, {listed(counts)}."


def short_list(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence on which of three or more models may be the best, if this is known."""
    names = comparison.short_list
    if names is None or len(comparison.groups) < 3:
        return
    if len(names) == len(comparison.groups):
        yield "No model can be ruled out as the best (95 % confidence; Hsu, 1996)."
    else:
        contains = f"contains only {names[0]}" if len(names) == 1 else f"is {listed(names, max_listed=MAX_NAMED)}"
        yield f"The 95 % confidence set for the best model (Hsu, 1996) {contains}."


def power(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence on the smallest true difference that the study detects with 80 % power, if it is known."""
    metric = comparison.metric
    found = [d for pair in tested(comparison) if (d := pair.minimum_detectable_difference) is not None]
    if not found:
        return
    low, high = detectable_text(metric, min(found)), detectable_text(metric, max(found))
    size = low if low == high else f"{low.removesuffix(unit_of(metric))} to {high}, depending on the pair"
    yield f"The smallest true difference that this study detects with a power of 80 % is {size}."


def limitations(comparison: Comparison) -> Iterator[str]:
    """Yield sentences on the limits of the results, such as pairs that are not tested and groups with one seed."""
    pairs, groups = tested(comparison), comparison.groups
    if num_untested := len(comparison.pairs) - len(pairs):
        problems = {pair.problem for pair in comparison.pairs if pair.problem}
        reason = f", because {problems.pop()}" if len(problems) == 1 else ""
        verb = "is" if num_untested == 1 else "are"
        yield f"{num_untested:,} of the {len(comparison.pairs):,} pairs {verb} not tested{reason}."
    if single := [group.name for group in groups if len(group.seeds) == 1]:
        whose = "these trained models" if len(single) == len(groups) else f"the trained {plural('model', len(single))}"
        of = "" if len(single) == len(groups) else f" of {listed(single, max_listed=MAX_NAMED)}"
        yield f"Without further seeds, the results hold only for {whose}{of}."
    if few := sum(any(pair.missing_seeds) for pair in pairs):
        them = "pair" if few == 1 else f"{few:,} pairs"
        yield f"For the {them} of a model with two seeds and a model with more, no difference is called significant."
    if collapsed := sum(group.num_collapsed for group in groups):
        runs, verb = sum(len(group.seeds) for group in groups), "predicts" if collapsed == 1 else "predict"
        yield f"{collapsed:,} of the {runs:,} runs {verb} one class for nearly all documents."
    yield from comparison.cautions
    if flags := dict.fromkeys(flag for pair in comparison.pairs for flag in pair.flags):
        yield f"Note: {listed(list(flags), max_listed=MAX_NAMED)}."


def tested(comparison: Comparison) -> Sequence[PairResult]:
    return [pair for pair in comparison.pairs if not pair.problem]


def plural(noun: str, count: str | int | float) -> str:
    return noun if count == 1 else f"{noun}s"
