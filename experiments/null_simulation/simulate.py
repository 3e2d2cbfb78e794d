"""Simulate studies whose true differences are known, and count the errors of the old and of the new rules.

Run `python experiments/null_simulation/simulate.py`. It prints the tables of the README and takes about 45 minutes of
CPU time. `--studies 100` is faster but less precise, and `--only clusters` prints one table.

`imdbcls.comparison.inference.infer`, the function that `compare` calls, analyses every study.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
from adaptive import print_adaptive
from draws import Setting, draw_outcomes, draw_samples, sample_of_outcomes
from metric_studies import METRIC_NAMES, calibration_studies, metric_studies
from rules import OLD, infer_by_old_rules, p_over_documents, without
from scipy import stats
from small_studies import print_small
from tables import Numbers, Runner, percent, print_header, print_row

from imdbcls.comparison.estimate import Estimate, t_quantile
from imdbcls.comparison.inference import Inference, Pair, infer, short_list
from imdbcls.comparison.power import chances_to_settle, with_seeds
from imdbcls.comparison.samples import largest_collapse_rate
from imdbcls.comparison.statistics import Sample, permutation_p
from imdbcls.comparison.verdicts import LEVEL, Outcome

MARGIN = 0.003
WIDE_MARGIN = 0.02  # A margin far above the standard errors is the worst case for a false "equivalent".


def all_pairs(num_heads: int) -> list[Pair]:
    return [Pair(i, j) for i, j in combinations(range(num_heads), 2)]


def shifted(samples: Sequence[Sample], shifts: Iterable[float]) -> list[Sample]:
    """Add each head's shift to its metric."""
    return [replace(each, values_S=each.values_S + shift) for each, shift in zip(samples, shifts, strict=True)]


def contains(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def verdicts_and_intervals(inferences: Sequence[Inference], truth: Numbers) -> list[float]:
    """Return three numbers that rate the verdicts and intervals of one study.

    - Whether any "better" is false.
    - The share of 95 % intervals that contain the true difference.
    - Whether all simultaneous intervals contain the true difference.
    """
    pairs = all_pairs(len(truth))
    differences = [truth[pair.a] - truth[pair.b] for pair in pairs]
    wrong = [
        inference.outcome == Outcome.BETTER and inference.estimate.value * difference <= 0
        for inference, difference in zip(inferences, differences, strict=True)
    ]
    intervals = [(inference.estimate.interval(), inference.simultaneous) for inference in inferences]
    inside = [contains(own, value) for (own, _), value in zip(intervals, differences, strict=True)]
    together = [contains(both, value) for (_, both), value in zip(intervals, differences, strict=True)]
    return [any(wrong), float(np.mean(inside)), all(together)]


def judged(samples: Sequence[Sample], truth: Numbers, judge: Callable[..., list[Inference]]) -> list[float]:
    """Return four numbers that rate the verdicts and intervals of one study.

    - Whether any "better" is false.
    - Whether the equivalence test falsely rejects for any pair if the last head is exactly one margin better than the
      others. The verdict "equivalent" is rarer than rejections, because "better" takes precedence.
    - The share of 95 % intervals that contain the true difference.
    - Whether all simultaneous intervals contain the true difference.
    """
    pairs, last = all_pairs(len(samples)), len(samples) - 1
    better, inside, together = verdicts_and_intervals(judge(samples, pairs, WIDE_MARGIN), truth)
    to_margin = [*(truth[:last].max() - truth[:last]), truth[:last].max() - truth[last] + WIDE_MARGIN]
    at_margin = judge(shifted(samples, to_margin), pairs, WIDE_MARGIN)
    false_equivalent = [
        inference.p_equivalence_holm is not None and inference.p_equivalence_holm < LEVEL
        for pair, inference in zip(pairs, at_margin, strict=True)
        if pair.b == last
    ]
    return [better, any(false_equivalent), inside, together]


def error_studies(setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return the numbers of `judged` for each study, by the old and the new rules in turn: old, new, old, new, ..."""
    units = setting.units()
    with without(*OLD):
        old_units = setting.units()
    rows = []
    for _ in range(num_studies):
        outcomes = draw_outcomes(setting, generator)
        samples = [sample_of_outcomes(correct_SN, units) for correct_SN in outcomes]
        new = judged(samples, setting.accuracies, infer)
        with without(*OLD):
            samples = [replace(each, units=old_units) for each in samples]
            old = judged(samples, setting.accuracies, infer_by_old_rules)
        rows.append([number for pair in zip(old, new, strict=True) for number in pair])
    return np.array(rows, dtype=float)


def rule_studies(rule: str, setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return numbers for each study, alternately with all rules and without `rule`: with, without, with, ...

    - Whether any "better" is false.
    - The share of intervals that contain the true difference.
    - Whether all simultaneous intervals contain the true difference.
    - The share of pairs whose p-value is clearly below the p-value for exactly these trained models. The p-value of a
      pair also covers other seeds, so it should not be smaller.
    """
    units, pairs = setting.units(), all_pairs(len(setting.num_seeds))
    with without(rule):
        units_without = setting.units()
    rows = []
    for _ in range(num_studies):
        outcomes = draw_outcomes(setting, generator)
        found = []
        for rules, used in (((), units), ((rule,), units_without)):
            with without(*rules):
                samples = [sample_of_outcomes(correct_SN, used) for correct_SN in outcomes]
                inferences = infer(samples, pairs, None)
                smaller = [
                    inference.p_value is not None
                    and inference.p_value < 0.98 * p_over_documents(samples[pair.a], samples[pair.b])
                    for pair, inference in zip(pairs, inferences, strict=True)
                ]
                found.append([*verdicts_and_intervals(inferences, setting.accuracies), float(np.mean(smaller))])
        rows.append([number for pair in zip(*found, strict=True) for number in pair])
    return np.array(rows, dtype=float)


def collapse_studies(setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return whether the verdict is "better" or "equivalent", and whether the interval contains the true difference.

    Each value is computed first by the old and then by the new rules. The last two numbers describe the second head:
    whether none of its seeds collapsed, and whether the upper limit of its rate of collapse is at least the true rate.
    """
    units, pairs, truth = setting.units(), all_pairs(2), float(setting.accuracies[0] - setting.accuracies[1])
    rows = []
    for _ in range(num_studies):
        outcomes = draw_outcomes(setting, generator)
        samples = [sample_of_outcomes(correct_SN, units) for correct_SN in outcomes]
        (new,) = infer(samples, pairs, MARGIN)
        with without(*OLD):
            (old,) = infer_by_old_rules(samples, pairs, MARGIN)
            inside = contains(old.estimate.interval(), truth)
        num_collapsed = int((outcomes[1].mean(axis=1) < 0.6).sum())
        limit = largest_collapse_rate(setting.num_seeds[1], num_collapsed)
        rows.append(
            [
                *(each.outcome == Outcome.BETTER for each in (old, new)),
                *(each.outcome == Outcome.EQUIVALENT for each in (old, new)),
                inside,
                contains(new.estimate.interval(), truth),
                num_collapsed == 0,
                limit >= setting.collapse[1],
            ]
        )
    return np.array(rows, dtype=float)


def short_list_studies(setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return three numbers per study: whether the short list lacks the best head, and the sizes of two lists.

    The first list is the short list. The second list contains the leader, and the heads for which Holm's method does
    not find that the leader is "better".
    """
    units, pairs = setting.units(), all_pairs(len(setting.num_seeds))
    rows = []
    for _ in range(num_studies):
        samples = draw_samples(setting, generator, units)
        inferences = infer(samples, pairs, MARGIN)
        by_pair = {(pair.a, pair.b): inference for pair, inference in zip(pairs, inferences, strict=True)}
        chosen = short_list(len(samples), by_pair, higher_is_better=True)
        assert chosen is not None
        leader = int(np.argmax([sample.values_S.mean() for sample in samples]))
        not_worse = sum(
            inference.outcome != Outcome.BETTER for indices, inference in by_pair.items() if leader in indices
        )
        rows.append([0 not in chosen, len(chosen), 1 + not_worse])
    return np.array(rows, dtype=float)


def plug_in_chance(estimate: Estimate, num_seeds: int) -> float:
    """Return the chance of a verdict if the observed difference and variances were the true values (the old rule)."""
    larger = with_seeds(estimate, num_seeds)
    error, df = larger.standard_error, larger.degrees_of_freedom
    significant, equivalent = t_quantile(1 - LEVEL / 2, df) * error, MARGIN - t_quantile(1 - LEVEL, df) * error
    absolute = abs(estimate.value)
    chance = float(stats.norm.cdf((absolute - significant) / error) + stats.norm.cdf((-absolute - significant) / error))
    if equivalent > 0:
        chance += float(
            stats.norm.cdf((equivalent - absolute) / error) - stats.norm.cdf((-equivalent - absolute) / error)
        )
    return min(1.0, chance)


def pooled_studies(setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return whether two other tests and the comparison call two equal heads different.

    The other tests are McNemar's test over all seeds and documents, and the permutation test over documents. McNemar's
    test treats all predictions as independent.
    """
    units = setting.units()
    rows = []
    for _ in range(num_studies):
        a_SN, b_SN = draw_outcomes(setting, generator)
        a_only, b_only = int((a_SN > b_SN).sum()), int((b_SN > a_SN).sum())
        pooled = 2 * stats.norm.sf(abs(a_only - b_only) / max(1, a_only + b_only) ** 0.5)
        permuted = permutation_p(a_SN.astype(np.float32), b_SN.astype(np.float32), units)
        (inference,) = infer([sample_of_outcomes(each, units) for each in (a_SN, b_SN)], [Pair(0, 1)], None)
        rows.append([pooled < LEVEL, permuted < LEVEL, inference.outcome == Outcome.BETTER])
    return np.array(rows, dtype=float)


SETTLE_SEEDS = (2, 3, 5)  # numbers of seeds from which the chance of a verdict is predicted
SETTLE_TARGETS = (10, 30)  # later numbers of seeds, for which the chance is predicted


def settle_studies(setting: Setting, generator: np.random.Generator, num_studies: int) -> Numbers:
    """Return the predicted chances of a verdict with more seeds, and whether there is a verdict with these seeds.

    Each present number of seeds (`SETTLE_SEEDS`) is combined with each later number (`SETTLE_TARGETS`). A combination
    gives three values: the chance by the old rules, the chance by the new rules, and whether there is a verdict with
    the later number. A prediction uses only the present seeds.
    """
    units, pairs = setting.units(), [Pair(0, 1)]
    rows = []
    for _ in range(num_studies):
        samples = draw_samples(setting, generator, units)
        settled = {}
        for target in SETTLE_TARGETS:
            (then,) = infer([each.seeds(np.arange(target)) for each in samples], pairs, MARGIN)
            settled[target] = then.outcome in (Outcome.BETTER, Outcome.EQUIVALENT)
        row = []
        for num_seeds in SETTLE_SEEDS:
            few = [each.seeds(np.arange(num_seeds)) for each in samples]
            (now,) = infer(few, pairs, MARGIN)
            chances = chances_to_settle(now.estimate, LEVEL, MARGIN)
            with without(*OLD):
                (old,) = infer_by_old_rules(few, pairs, MARGIN)
                plug_in = [plug_in_chance(old.estimate, target) for target in SETTLE_TARGETS]
            for chance, target in zip(plug_in, SETTLE_TARGETS, strict=True):
                row += [chance, float(chances[target]), settled[target]]
        rows.append(row)
    return np.array(rows, dtype=float)


def equal(num_heads: int, num_seeds: int, sd: float, num_documents: int) -> Setting:
    return Setting((num_seeds,) * num_heads, (sd,) * num_heads, num_documents)


def unstable(num_heads: int, num_seeds: int, sd: float, num_documents: int) -> Setting:
    return Setting((num_seeds,) * num_heads, (*[sd] * (num_heads - 1), 10 * sd), num_documents)


def films(num_films: int, num_documents: int = 1_000, num_seeds: int = 3, film_sd: float = 0.5) -> Setting:
    return Setting((num_seeds,) * 2, (0.2, 0.2), num_documents, num_films=num_films, film_sd=film_sd)


ERROR_TABLES: dict[str, dict[str, Setting]] = {
    "two": {
        f"{num_seeds} seeds, {sd} points, {num_documents:,}": equal(2, num_seeds, sd, num_documents)
        for num_seeds in (2, 3, 5, 10)
        for sd, num_documents in ((0.0, 5_000), (0.2, 5_000), (0.5, 25_000))
    },
    "seven": {
        f"{num_seeds} seeds, {sd} points, {num_documents:,}": equal(7, num_seeds, sd, num_documents)
        for num_seeds in (2, 3)
        for num_documents in (5_000, 25_000)
        for sd in (0.2, 0.5)
    },
    "unequal": {
        f"{' v '.join(map(str, num_seeds))} seeds, {sd} points, {num_documents:,}": Setting(
            num_seeds, (sd,) * len(num_seeds), num_documents
        )
        for num_seeds in ((2, 10), (3, 10), (3, 3, 2))
        for sd, num_documents in ((0.2, 5_000), (0.5, 25_000))
    },
    "unstable": {
        **{
            f"{num_heads} heads, {num_seeds} seeds, {sd} and {10 * sd:g} points, {num_documents:,}": unstable(
                num_heads, num_seeds, sd, num_documents
            )
            for num_heads, num_seeds, sd, num_documents in (
                (2, 2, 0.05, 25_000),
                (2, 2, 0.2, 5_000),
                (2, 3, 0.05, 25_000),
                (2, 3, 0.2, 5_000),
                (3, 3, 0.1, 5_000),
                (7, 2, 0.1, 5_000),
                (7, 3, 0.1, 5_000),
            )
        },
        "2 heads, 3 and 10 seeds, 2.0 and 0.2 points, 5,000": Setting((3, 10), (2.0, 0.2)),
    },
    "clusters": {
        **{f"{num} films, 1,000 documents": films(num) for num in (10, 20, 30)},
        "3,500 films, 25,000 documents": films(3_500, 25_000),
    },
}
ERROR_COLUMNS = (
    "false better, old",
    "new",
    "false equivalent, old",
    "new",
    "interval, old",
    "new",
    "all intervals, old",
    "new",
    "studies",
)


def print_errors(run: Runner, name: str) -> None:
    print_header("heads", *ERROR_COLUMNS)
    for title, setting in ERROR_TABLES[name].items():
        found = run(partial(error_studies, setting), 2.0 if len(setting.num_seeds) == 2 else 1.0)
        print_row(title, *(percent(column) for column in found.T), f"{len(found):,}")


# For each rule, studies in which it matters.
RULE_SETTINGS = {
    "floor": equal(2, 3, 0.0, 2_000),
    "shrinkage": equal(7, 2, 1.0, 2_000),
    "upper limits": unstable(2, 2, 0.2, 5_000),
    "two against many": Setting((2, 10), (2.0, 0.2)),
    "Holm": equal(7, 2, 1.0, 2_000),
    "unequal clusters": films(10),
}


def print_rules(run: Runner) -> None:
    names = ("false better", "interval", "all intervals", "p below that of these models")
    print_header("rule", *(f"{name}, {kind}" for name in names for kind in ("with", "without")), "studies")
    for rule, setting in RULE_SETTINGS.items():
        found = run(partial(rule_studies, rule, setting))
        print_row(rule, *(percent(column) for column in found.T), f"{len(found):,}")


def print_collapse(run: Runner) -> None:
    print_header(
        "seeds, rate of collapse",
        "better, old",
        "new",
        "equivalent, old",
        "new",
        "interval, old",
        "new",
        "none seen",
        "limit holds",
        "studies",
    )
    for num_seeds in (3, 5, 10):
        for rates in ((0.05, 0.05), (0.0, 0.05)):
            setting = Setting((num_seeds,) * 2, (0.1, 0.1), 25_000, collapse=rates)
            found = run(partial(collapse_studies, setting), 0.5)
            title = f"{num_seeds} seeds, {rates[0]:.0%} and {rates[1]:.0%}"
            print_row(title, *(percent(column) for column in found.T), f"{len(found):,}")


def print_metrics(run: Runner) -> None:
    for share in (0.5, 0.03):
        names = ("better, old", "new", "interval, old", "new", "studies")
        print_header(f"metric, {share:.0%} positives", *names)
        found = run(partial(metric_studies, share), 0.5)
        for i, name in enumerate(METRIC_NAMES):
            print_row(name, *(percent(column) for column in found.T[4 * i : 4 * i + 4]), f"{len(found):,}")


def print_calibration(run: Runner) -> None:
    print_header("seeds, confidence", "interval has the true ECE, old", "p < 5 %, new", "studies")
    for num_seeds in (1, 3):
        for separation in (0.8, 1.6):
            found = run(partial(calibration_studies, num_seeds, separation), 0.25)
            title = f"{num_seeds} {'seed' if num_seeds == 1 else 'seeds'}, {'low' if separation < 1 else 'high'}"
            print_row(title, *(percent(column) for column in found.T), f"{len(found):,}")


def print_short_list(run: Runner) -> None:
    print_header("seven heads", "best is missing", "heads on the list", "heads that Holm leaves", "studies")
    spread = (0.0, 0.0, 0.2, 0.5, 1.0, 2.0, 3.0)
    for num_seeds, sd, num_documents in ((2, 0.2, 5_000), (3, 0.2, 5_000), (3, 0.5, 25_000), (5, 0.2, 5_000)):
        for behind in ((0.0,) * 7, spread):
            setting = replace(equal(7, num_seeds, sd, num_documents), behind=behind)
            found = run(partial(short_list_studies, setting), 0.5)
            title = f"{num_seeds} seeds, {sd} points, {num_documents:,}, {'spread' if any(behind) else 'equal'}"
            sizes = [f"{found[:, i].mean():.2f}" for i in (1, 2)]
            print_row(title, percent(found[:, 0]), *sizes, f"{len(found):,}")


def print_settle(run: Runner) -> None:
    """Print the predicted chances of a verdict and the observed rates: over three effects, for each, and in bins."""
    effects = (0.0, 0.3, 1.0)
    found = {}
    for sd in (0.2, 0.5):
        for num_documents in (5_000, 25_000):
            for effect in effects:
                setting = replace(equal(2, max(SETTLE_TARGETS), sd, num_documents), behind=(0.0, effect))
                found[sd, num_documents, effect] = run(partial(settle_studies, setting), 0.2)
    cells = [(seeds, target) for seeds in SETTLE_SEEDS for target in SETTLE_TARGETS]
    print_header(
        "seeds, present to later",
        *("settled", "predicted, old", "new"),
        *(f"new minus settled, {effect:g} points" for effect in effects),
        "studies",
    )
    errors = []
    for sd in (0.2, 0.5):
        for num_documents in (5_000, 25_000):
            for i, (seeds, target) in enumerate(cells):
                each = [found[sd, num_documents, effect][:, 3 * i : 3 * i + 3] for effect in effects]
                old, new, settled = np.concatenate(each).mean(axis=0)
                errors.append((old - settled, new - settled))
                print_row(
                    f"{seeds} to {target}, {sd} points, {num_documents:,}",
                    *(f"{100 * value:.1f}" for value in (settled, old, new)),
                    *(f"{100 * (part[:, 1] - part[:, 2]).mean():+.1f}" for part in each),
                    f"{sum(map(len, each)):,}",
                )
    old_errors, new_errors = 100 * np.abs(np.array(errors)).T
    for name, error in (("old", old_errors), ("new", new_errors)):
        print(f"\n{name}: mean absolute error {error.mean():.1f} points, largest {error.max():.1f}", end="")
        print(f", above 10 points in {(error > 10).sum()} of {len(error)} rows")
    together = np.concatenate([rows.reshape(-1, 3) for rows in found.values()])
    print_header("predicted", "settled, old", "studies", "settled, new", "studies")
    for low in np.arange(0, 1, 0.2):
        bins = [(together[:, i] >= low) & (together[:, i] < (low + 0.2 if low < 0.7 else 2)) for i in (0, 1)]
        shares = [f"{100 * together[chosen, 2].mean():.0f}" if chosen.any() else "" for chosen in bins]
        counts = [f"{chosen.sum():,}" for chosen in bins]
        print_row(f"{100 * low:.0f} to {100 * low + 20:.0f} %", shares[0], counts[0], shares[1], counts[1])


def print_pooled(run: Runner) -> None:
    print_header("heads", "pooled McNemar", "permutation over documents", "comparison", "studies")
    for title, setting in ERROR_TABLES["two"].items():
        found = run(partial(pooled_studies, setting), 0.5)
        print_row(title, *(percent(column) for column in found.T), f"{len(found):,}")


def main() -> None:
    others = {
        "rules": print_rules,
        "collapse": print_collapse,
        "metrics": print_metrics,
        "calibration": print_calibration,
        "short_list": print_short_list,
        "settle": print_settle,
        "pooled": print_pooled,
        "adaptive": print_adaptive,
        "small": print_small,
    }
    tables = [*ERROR_TABLES, *others]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1_000, help="studies in most rows, at least 2 (default: 1,000)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--only", choices=tables, nargs="+", default=tables, help="tables to print (default: all)")
    arguments = parser.parse_args()
    if arguments.studies < 2 or arguments.processes < 1:
        parser.error("--studies must be at least 2, and --processes at least 1")
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes inherit it; small matrix products are slower with threads
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        run = Runner(arguments.studies, pool)
        for i, name in enumerate(tables):
            run.row = 1_000 * i  # gives a table the same numbers with and without `--only`
            if name in arguments.only:
                print(f"\n## {name}")
                print_errors(run, name) if name in ERROR_TABLES else others[name](run)


if __name__ == "__main__":
    main()
