"""Compute all results of a study as one immutable `Comparison`."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from imdbcls.comparison.baseline import baseline_of, ensemble_of
from imdbcls.comparison.calibration import calibration_of, reliability_curve
from imdbcls.comparison.class_scores import class_scores_of, confusion_matrix_of
from imdbcls.comparison.cost import cost_ranges_of, costs_of, pareto_fronts
from imdbcls.comparison.curves import learning_curves
from imdbcls.comparison.facts import facts_of, settings_of
from imdbcls.comparison.group import Group
from imdbcls.comparison.inference import short_list
from imdbcls.comparison.metrics import METRICS, Metric
from imdbcls.comparison.mistakes import disagreements, label_errors, wrong_for_all
from imdbcls.comparison.notes import confounds, differing_choices, partial_overlaps
from imdbcls.comparison.pairs import compare_pairs
from imdbcls.comparison.planned import notes_on_plan, planned_study
from imdbcls.comparison.results import Comparison, GroupSummary, MetricSummary, RunSummary
from imdbcls.comparison.run_files import BadRunError, link_of, number
from imdbcls.comparison.samples import is_undefined, largest_collapse_rate, sample_of, summarize, units_of
from imdbcls.comparison.size_curves import crossings_of, size_curves_of
from imdbcls.comparison.slices import accuracy_by_part
from imdbcls.comparison.statistics import Sample, Units, seed_variances
from imdbcls.comparison.study import Study


def compare_study(study: Study, metric: Metric, margin: float | None) -> Comparison:
    """Summarize every group, best first, and test every pair.

    `metric` decides ranks and verdicts. `margin` is the equivalence margin, as a fraction of one for percentages;
    None: equivalence is not tested. Raise BadRunError if the metric is not defined for a group, or if it needs
    probabilities and a run has none.
    """
    require_probabilities(study, metric)
    units = units_of(study.groups)
    samples = {
        name: samples_of(study.groups, each, units)
        for name, each in METRICS.items()
        if can_evaluate(each, study.groups)
    }
    primary = samples[metric.name]
    if undefined := [group.name for group, sample in zip(study.groups, primary, strict=True) if is_undefined(sample)]:
        raise BadRunError(
            f"{metric.title} is not defined for {undefined[0]}: a class has no test documents. Use another --metric."
        )
    metrics = summarize_metrics(samples)
    order = sorted(range(len(study.groups)), key=lambda i: -metric.sign * primary[i].values_S.mean())
    groups, primary = [study.groups[i] for i in order], [primary[i] for i in order]
    means = [sample.values_S.mean() for sample in primary]
    summaries = tuple(  # groups with equal means share a rank
        summarize_group(study.groups[i], 1 + means.index(mean), metrics[i], metric, study.label_names)
        for mean, i in zip(means, order, strict=True)
    )
    index_pairs = list(combinations(range(len(groups)), 2))
    planned = None
    if study.plan is not None and study.plan.metric == metric.name and study.plan.margin == margin:
        planned = planned_study(study, study.plan, metric)
    pairs, inferences = compare_pairs(groups, primary, metric, margin, index_pairs, planned)
    chosen = None  # not computed for a planned study, because Hsu's critical value does not hold for several looks
    if planned is None:
        chosen = short_list(len(groups), dict(zip(index_pairs, inferences, strict=True)), metric.higher_is_better)
    size_curves = size_curves_of(groups, summaries)
    shared_settings, differing_settings = settings_of(groups)
    return Comparison(
        study=study.name,
        file=study.file,
        metric=metric,
        margin=margin,
        label_names=study.label_names,
        facts=facts_of(groups),
        shared_settings=shared_settings,
        differing_settings=differing_settings,
        notes=(
            *notes_on_plan(study, planned),
            *study.left_out,
            *confounds(study.groups),
            *partial_overlaps(pairs, groups),
        ),
        cautions=tuple(differing_choices(study.groups)),
        groups=summaries,
        short_list=None if chosen is None else tuple(groups[i].name for i in chosen),
        baseline=baseline_of(groups[0]),
        size_curves=size_curves,
        crossings=crossings_of(size_curves, pairs),
        pairs=tuple(pairs),
        pareto=pareto_fronts(summaries, metric),
        disagreements=disagreements(groups),
        wrong_for_all=wrong_for_all(groups),
        label_errors=label_errors(groups),
        plan=None if planned is None else planned.summary(),
    )


def chosen(study: Study, metric: str | None = None, margin: float | None = None) -> tuple[Metric, float | None]:
    """Return the metric and the margin of a comparison. For percentages, the returned margin is a fraction of one.

    A given `margin` is in points if the metric is a percentage, and in the unit of the metric otherwise.
    Without `metric`, use the metric of the study's plan or, without a plan, the metric that selected the best epochs.
    Without `margin`, use the margin of the plan if the plan has the same metric, else the default margin of the metric.
    """
    plan = study.plan
    found = METRICS[metric or (study.recorded_metric if plan is None else plan.metric)]
    if margin is not None:
        return found, margin / 100 if found.is_percentage else margin
    return found, plan.margin if plan is not None and found.name == plan.metric else found.default_margin


def require_probabilities(study: Study, metric: Metric) -> None:
    """Raise BadRunError if the metric needs probabilities and a run has none."""
    if can_evaluate(metric, study.groups):
        return
    possible = " or ".join(each.name for each in METRICS.values() if can_evaluate(each, study.groups))
    raise BadRunError(
        f"The metric {metric.name} needs probabilities, but {study.file or study.name} has none for at least one run. "
        f"Use {possible} instead. In a file of predictions, you can also add the columns probability_<class>."
    )


def can_evaluate(metric: Metric, groups: Sequence[Group]) -> bool:
    return all(metric.is_available_for(run.predictions) for group in groups for run in group.runs)


def samples_of(groups: Sequence[Group], metric: Metric, units: Sequence[Units]) -> list[Sample]:
    return [sample_of(group, metric, own) for group, own in zip(groups, units, strict=True)]


def summarize_metrics(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, MetricSummary]]:
    """Return, for each group, the metrics that are defined on its documents, keyed by `Metric.key`."""
    num_groups = len(next(iter(samples.values())))
    summaries: list[dict[str, MetricSummary]] = [{} for _ in range(num_groups)]
    for name, of_groups in samples.items():
        defined = [i for i, sample in enumerate(of_groups) if not is_undefined(sample)]
        variances = seed_variances([of_groups[i] for i in defined])
        for i, variance in zip(defined, variances, strict=True):
            summaries[i][METRICS[name].key] = summarize(of_groups[i], variance, METRICS[name].upper)
    return summaries


def summarize_group(
    group: Group, rank: int, metrics: dict[str, MetricSummary], metric: Metric, label_names: tuple[str, ...]
) -> GroupSummary:
    num_collapsed = int(group.collapsed_S.sum())
    return GroupSummary(
        name=group.name,
        head=group.head,
        backbone=group.backbone,
        rank=rank,
        seeds=tuple(group.seeds),
        runs=run_summaries(group, metric, metrics[metric.key]),
        num_failed=group.num_failed,
        num_collapsed=num_collapsed,
        largest_collapse_rate=largest_collapse_rate(len(group.runs), num_collapsed),
        num_documents=len(group.ids),
        num_clusters=None if group.clusters_N is None else group.num_independent,
        max_length=group.max_length,
        watched_test=group.watched_test,
        validation_accuracy=validation_accuracy(group),
        metrics=metrics,
        primary=metrics[metric.key],
        ensemble=ensemble_of(group),
        calibration=calibration_of(group),
        cost=costs_of(group),
        cost_range=cost_ranges_of(group),
        parts=accuracy_by_part(group, label_names),
        confusion_matrix=confusion_matrix_of(group),
        class_scores=class_scores_of(group, label_names),
        reliability=reliability_curve(group),
        learning_curves=learning_curves(group),
        varied=group.varied,
    )


def run_summaries(group: Group, metric: Metric, summary: MetricSummary) -> tuple[RunSummary, ...]:
    return tuple(
        RunSummary(
            name=run.name,
            seed=run.seed,
            validation=number(run.result.get(f"val/{metric.name}")),
            test=value,
            best_epoch=None if (epoch := number(run.result.get("best_epoch"))) is None else int(epoch),
            train_seconds=number(run.result.get("train_seconds")),
            url=link_of(run.result, "wandb"),
        )
        for run, value in zip(group.runs, summary.values, strict=True)
    )


def validation_accuracy(group: Group) -> float | None:
    """Return the mean of the recorded validation accuracies, or None if no run recorded its validation accuracy."""
    found = [value for run in group.runs if (value := number(run.result.get("val/accuracy"))) is not None]
    return sum(found) / len(found) if found else None
