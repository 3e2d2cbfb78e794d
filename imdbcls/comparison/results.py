"""Frozen dataclasses for the results of a comparison. `compare_study` builds them, and `views/` renders them.

Accuracies and other percentages are fractions of one, and so are their differences and intervals. Intervals are 95 %
confidence intervals over documents, and over seeds if a group has several. None means not defined, not measured or not
tested, as documented for each field.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.verdicts import LEVEL, Outcome
from imdbcls.printable import counted

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class MetricSummary:
    """One metric of a group on the test split or a part of it, in the unit of the metric."""

    mean: float  # over seeds
    low: float
    high: float
    std: float | None  # over seeds; None: only one seed
    values: tuple[float, ...]  # one per seed, in the order of the group's seeds


@dataclass(frozen=True)
class PartAccuracy:
    """Accuracy on a part of the test split."""

    name: str
    num_documents: int
    accuracy: MetricSummary | None  # None: fewer than slices.SMALLEST_PART documents


@dataclass(frozen=True)
class Parts:
    """Accuracy on parts of the test split. Each of four criteria divides all documents into parts."""

    length: tuple[PartAccuracy, ...]  # by tokens before truncation; empty: not known
    truncated: tuple[PartAccuracy, ...]  # within max_length or longer; empty: not known
    classes: tuple[PartAccuracy, ...]  # by true class, in the order of the label names
    given: tuple[PartAccuracy, ...] = ()  # by data.part_column, in the order of the names; empty: the data has no parts


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions with a confidence in one bin, pooled over all seeds."""

    confidence: float  # mean probability of the predicted class
    accuracy: float
    share: float  # share of all predictions


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error (ECE) of a group, and the ECE that a calibrated model would show.

    The measured ECE of a perfectly calibrated model is above zero, because each bin has a limited number of documents.
    """

    values: tuple[float, ...]  # one per seed
    expected: float  # mean ECE if the probabilities were calibrated, averaged over seeds
    p: float  # p-value of the null hypothesis that the probabilities are calibrated
    temperatures: tuple[float, ...] | None  # one per seed, fitted on validation; None: a run has no temperature
    calibrated_values: tuple[float, ...] | None  # ECE of each seed after scaling; None: `temperatures` is None

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def calibrated_mean(self) -> float | None:
        found = self.calibrated_values
        return None if found is None else sum(found) / len(found)

    @property
    def mean_temperature(self) -> float | None:
        """The geometric mean over seeds."""
        found = self.temperatures
        return None if found is None else math.exp(sum(map(math.log, found)) / len(found))


@dataclass(frozen=True)
class CurvePoint:
    """A point of a learning curve: the mean over seeds, with the lowest and the highest value.

    Curves by training size or by number of trials use the same class. There, `epoch` is the x value, and `low` and
    `high` are the ends of an interval.
    """

    epoch: float
    mean: float
    low: float
    high: float
    num_seeds: int  # seeds that logged the metric at this epoch


@dataclass(frozen=True)
class RunSummary:
    """One run of a group."""

    name: str  # name of the run folder
    seed: int
    validation: float | None  # metric of the comparison on the validation split; None: not recorded
    test: float  # metric of the comparison on the test split
    best_epoch: int | None  # epoch of the evaluated model; None: not recorded
    train_seconds: float | None  # None: not measured
    url: str | None = None  # URL of the W&B page; None: not recorded


@dataclass(frozen=True)
class ClassScore:
    """The scores of a group for one class, averaged over seeds."""

    name: str
    num_documents: int  # documents with this label
    precision: float  # 0 if the class is never predicted
    recall: float
    f1: float


@dataclass(frozen=True)
class GroupSummary:
    """All results of one group. Its runs differ only in their seeds."""

    name: str  # unique in the comparison
    head: str
    backbone: str
    rank: int  # by the metric of the comparison; 1 is the best
    seeds: tuple[int, ...]  # ascending
    runs: tuple[RunSummary, ...]  # in the order of `seeds`
    num_failed: int  # failed runs of this group, which are left out
    num_collapsed: int  # runs that predict the same class for nearly all documents
    largest_collapse_rate: float  # upper 95 % confidence limit of the share of seeds that collapse
    num_documents: int  # documents in the test split
    num_clusters: int | None  # clusters of test documents that belong together; None: not recorded
    max_length: int | None  # tokens; None: not recorded
    watched_test: bool  # whether a run evaluated the test split during training
    validation_accuracy: float | None  # mean over the seeds that recorded it; None: not recorded
    metrics: Mapping[str, MetricSummary]  # keys: Metric.key; missing: not defined, or no probabilities
    primary: MetricSummary  # the metric of the comparison
    # Metrics of the ensemble (keys: Metric.key; see baseline.ensemble_of); empty: one seed, or no probabilities.
    ensemble: Mapping[str, float]
    calibration: Calibration | None  # None: no probabilities
    cost: Mapping[str, float | None]  # mean over seeds; keys as in cost.COSTS; None: not measured
    cost_range: Mapping[str, tuple[float, float] | None]  # lowest and highest value over seeds; same keys as `cost`
    parts: Parts
    confusion_matrix: tuple[tuple[int, ...], ...]  # documents by true and by predicted class, summed over seeds
    class_scores: tuple[ClassScore, ...]  # in the order of the label names
    reliability: tuple[ReliabilityBin, ...]  # non-empty bins, by confidence; empty: no probabilities
    learning_curves: Mapping[str, tuple[CurvePoint, ...]]  # keys as in curves.CURVES; empty tuple: not logged
    varied: Mapping[str, str]  # name to value of each choice in which the groups differ, except the head

    @property
    def accuracy(self) -> MetricSummary:
        return self.metrics["test/accuracy"]


@dataclass(frozen=True)
class McNemarTest:
    """McNemar's exact test of two models trained with the same seed: one of group `a`, one of group `b`."""

    seed: int
    a_only: int  # number of documents that only the model of `a` gets right
    b_only: int
    p: float


@dataclass(frozen=True)
class Flips:
    """Numbers of documents that one group of a pair gets right and the other gets wrong."""

    a_only: float  # right only in `a`, averaged over all pairs of seeds
    b_only: float
    a_only_in_every_seed: int  # right in every seed of `a` and wrong in every seed of `b`
    b_only_in_every_seed: int


@dataclass(frozen=True)
class WithoutCollapsed:
    """The comparison of a pair without collapsed seeds, which predict the same class for nearly all documents."""

    num_seeds: tuple[int, int]  # remaining seeds of `a` and `b`
    difference: float
    simultaneous_low: float
    simultaneous_high: float
    p_corrected: float | None  # Bonferroni
    outcome: Outcome


@dataclass(frozen=True)
class PairLook:
    """The last look so far at a pair, in a study that is tested while it grows."""

    num_seeds: int  # per group
    max_seeds: int  # largest number of seeds per group in the plan
    num_looks: int  # looks at this pair so far, including this one
    level: float  # p-values below this level are significant at this look; the level includes all corrections
    outlook: str  # how the study continues if the pair is undecided, as a clause


@dataclass(frozen=True)
class PlanSummary:
    """The plan of a study that is tested while it grows, and its state."""

    num_groups: int  # including groups without a finished run
    max_seeds: int  # per group
    looks: tuple[int, ...]  # planned numbers of seeds per group
    looks_done: tuple[int, ...]
    futility: float | None  # a group is stopped if its chance of a verdict is below this; None: no such rule
    is_over: bool
    decisions: tuple[str, ...]  # name and reason for each stopped group, in the order of the looks


@dataclass(frozen=True)
class PairResult:
    """The comparison of two groups on the test documents that they share. Group `a` is before group `b` in the ranking.

    The p-values whose names end in `_holm` are corrected for all tested pairs. In a planned study, they are also
    corrected for all looks, and all numbers about the difference come from the last look at the pair.
    """

    a: str  # name of the group
    b: str
    higher_is_better: bool  # for the metric of the comparison
    num_seeds: tuple[int, int]  # seeds of `a` and `b`
    num_collapsed: tuple[int, int]  # seeds that predict the same class for nearly all documents
    shared_documents: int
    problem: str | None  # why the pair is not tested, as a clause; None: it is tested
    flags: tuple[str, ...]  # caveats about the two groups, as clauses
    margin: float | None  # equivalence margin; None: equivalence is not tested

    difference: float  # metric of `a` minus metric of `b`
    low: float  # 95 % confidence interval of this pair, not corrected
    high: float
    simultaneous_low: float  # 95 % confidence interval, simultaneous for all tested pairs
    simultaneous_high: float
    standard_error: float
    degrees_of_freedom: float | None  # None: infinite

    p_value: float | None  # over documents, and over seeds if both groups have several; None: not tested
    p_holm: float | None
    p_equivalence: float | None  # TOST with the margin; None: not tested
    p_equivalence_holm: float | None
    outcome: Outcome
    missing_seeds: tuple[int, int]  # number of seeds to add to each group before a difference can be significant
    # None: the pair is not tested, no seed collapsed, or all seeds of a group collapsed.
    without_collapsed: WithoutCollapsed | None

    p_permutation: float | None  # permutation test of these trained models; None: not tested, or not accuracy
    mcnemar: tuple[McNemarTest, ...]  # one per seed that both groups have; empty: not tested, or no such seed
    flips: Flips | None  # None: not tested

    minimum_detectable_difference: float | None  # at 80 % power; None: a group has one seed
    seeds_needed: int | None  # per group, for a verdict; None: not tested, unknown, or above power.MAX_SEEDS
    # Chance of a verdict with `seeds_needed` seeds, or with power.MAX_SEEDS if `seeds_needed` is None. None: unknown.
    chance_to_settle: float | None
    look: PairLook | None = None  # None: the study has no plan, or the pair is not tested

    @property
    def seeds_varied(self) -> bool:
        return min(self.num_seeds) > 1

    @property
    def significant(self) -> bool:
        return self.outcome in (Outcome.BETTER, Outcome.BETTER_HERE)

    @property
    def equivalent(self) -> bool | None:
        """Whether TOST shows that the difference is smaller than the margin; None: not tested."""
        return None if self.p_equivalence_holm is None else self.p_equivalence_holm < LEVEL

    @property
    def underpowered(self) -> bool | None:
        """Whether the minimum detectable difference is larger than the margin; None: unknown."""
        detectable = self.minimum_detectable_difference
        return None if detectable is None or self.margin is None else detectable > self.margin

    @property
    def leader(self) -> str:
        """The better group on the shared documents; `a` if the groups are equal."""
        return self.a if (self.difference >= 0) == self.higher_is_better or self.difference == 0 else self.b

    def other(self, name: str) -> str:
        return self.b if name == self.a else self.a


@dataclass(frozen=True)
class Disagreement:
    """The documents that group `right` gets right and group `wrong` gets wrong, in every seed.

    The documents with the largest difference in the probability of the label come first. Without probabilities, the
    documents are sorted by id.
    """

    right: str  # name of the group
    wrong: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class LabelError:
    """A document whose label may be wrong: all groups confidently predict the same class, which is not the label."""

    id: str
    label: int  # class index
    suspected: int  # class index
    least_confidence: float  # probability of the suspected class, averaged over seeds, in the least confident group


@dataclass(frozen=True)
class SizePoint:
    """One point of a size curve: a group, its training size and its metric."""

    train_documents: int
    group: str  # name of the group
    value: MetricSummary  # metric of the comparison


@dataclass(frozen=True)
class SizeCurve:
    """The metric of one head by the number of training documents."""

    name: str  # name of the head
    points: tuple[SizePoint, ...]  # by ascending size


@dataclass(frozen=True)
class Crossing:
    """Two curves that cross between two training sizes."""

    before: str  # head that is ahead at the smaller size
    after: str  # head that is ahead at the larger size
    sizes: tuple[int, int]  # training documents
    leads: tuple[float, float]  # absolute difference between the heads at each of the two sizes
    significant: tuple[bool, bool]  # whether the differences are significant


@dataclass(frozen=True, repr=False)
class Comparison:
    """All results of one study."""

    study: str
    file: str | None  # name of the predictions file; None: the study consists of run folders
    metric: Metric  # decides ranks and verdicts
    margin: float | None  # equivalence margin; None: equivalence is not tested
    label_names: tuple[str, ...]
    facts: Mapping[str, tuple[str | int | float, ...]]  # distinct values of each fact; see facts.facts_of
    shared_settings: Mapping[str, str]  # config values that all groups share, by dotted key
    differing_settings: Mapping[str, tuple[str, ...]]  # one value per group, best first; "": no such key
    notes: tuple[str, ...]  # sentences about runs that were left out and about possible confounds
    cautions: tuple[str, ...]  # the notes that the headline also contains
    groups: tuple[GroupSummary, ...]  # best first
    # Groups that may be the best (Hsu). None: a pair is untested, a group has one seed, or the tests follow a plan.
    short_list: tuple[str, ...] | None
    baseline: Mapping[str, float]  # keys: Metric.key; see baseline.baseline_of
    size_curves: tuple[SizeCurve, ...]  # one per head; empty: see size_curves.size_curves_of
    crossings: tuple[Crossing, ...]  # crossings of the size curves
    pairs: tuple[PairResult, ...]  # every pair of groups, in the order of `groups`
    pareto: Mapping[str, tuple[str, ...]]  # keys as in cost.COSTS; groups on the Pareto front of metric and cost
    disagreements: tuple[Disagreement, ...]  # two per pair of groups that have the same test documents
    wrong_for_all: tuple[str, ...]  # ids of documents that every run misclassifies, hardest first
    label_errors: tuple[LabelError, ...] | None  # most certain first; None: a group has no probabilities
    plan: PlanSummary | None = None  # None: the study has no plan, or the comparison does not follow it
    looks: tuple[int, ...] = ()  # numbers of runs at this and earlier comparisons of the study; empty: not counted

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.groups)

    def __repr__(self) -> str:
        groups = counted(len(self), "group")
        return f"Comparison({self.study!r}, {groups} by {self.metric.title}, best: {self.groups[0].name!r})"

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the groups as a data frame with one row per group, best first, in the units of `groups`.

        The columns are `group`, `head`, `backbone`, `seeds` (their number), `mean`, `low`, `high` and `std` of the
        metric of the comparison, the means of the other metrics on test, and the mean costs. `std` is NaN for one seed.
        Each further choice in which the groups differ, such as `lr`, is a column of texts after `backbone`.
        """
        from imdbcls.comparison.frames import groups_frame

        return groups_frame(self)

    def pairs_to_pandas(self) -> "pandas.DataFrame":
        """Return the tests as a data frame with one row per pair of groups.

        Group `a` is before group `b` in the ranking. `difference` is the metric of `a` minus the metric of `b`. Its
        95 % interval, `low` to `high`, is simultaneous for all tested pairs, and `p_holm` is corrected for all tested
        pairs. `outcome` is "better", "equivalent", "undecided", "untested" or, if a group has only one seed,
        "better in these runs".
        """
        from imdbcls.comparison.frames import pairs_frame

        return pairs_frame(self)

    def _repr_html_(self) -> str:
        from imdbcls.comparison.frames import comparison_html

        return comparison_html(self)
