"""The cost of runs: seconds and bytes per document, measured on a sample, and their sums over all runs of a study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imdbcls.config.schema import Config


def encoded_splits(config: Config) -> tuple[str, ...]:
    """Return the splits whose documents a run encodes for the feature cache.

    If the encoder is frozen only in the first epochs, the test split is evaluated after the encoder has changed, so its
    documents are not encoded for the cache.
    """
    if not config.uses_feature_cache:
        return ()
    return ("train", "validation", "test") if config.backbone.freeze is True else ("train", "validation")


@dataclass(frozen=True)
class SharedCost:
    """The cost per document of the work that all runs with the same documents and encoder share.

    - `tokenize_seconds`: tokenization.
    - `encode_seconds`: computing and caching the output of a frozen encoder; 0 if it is not cached.
    - `feature_bytes`: the size of the cached output.
    - `check_seconds`: the time that each run needs to check the cached output.
    """

    tokenize_seconds: float
    encode_seconds: float = 0.0
    check_seconds: float = 0.0
    feature_bytes: float = 0.0


@dataclass(frozen=True)
class RunCost:
    """The cost of one run. `train_seconds`, `evaluate_seconds` and `prediction_bytes` are per document.

    - `num_documents`: the number of documents in each split. `measured`: the number of training documents that were
      timed, once or several times.
    - `start_seconds`: the time until training runs at full speed. Tokens and features come from the cache, and the
      check of the features is not included.
    - `epoch_seconds`: the work at the end of an epoch except evaluation, such as saving the checkpoints.
    - `finish_seconds`: the work at the end of a run, without the evaluation of the test split.
    - `finished_bytes`: the size of a finished run's folder without predictions. `training_bytes`: its additional size
      during training.
    - `hardware`: the device, threads and precision.
    """

    num_documents: Mapping[str, int]
    measured: int
    start_seconds: float
    train_seconds: float
    evaluate_seconds: float = 0.0
    epoch_seconds: float = 0.0
    finish_seconds: float = 0.0
    finished_bytes: float = 0.0
    training_bytes: float = 0.0
    prediction_bytes: float = 0.0
    hardware: str = ""

    def seconds(self, config: Config, shared: SharedCost) -> float:
        """Return the wall time of one run with this config, without early stopping."""
        num_train, num_validation, num_test = (self.num_documents[name] for name in ("train", "validation", "test"))
        evaluated = config.epochs * num_validation + num_test
        if config.trainer.score_test_each_epoch:
            evaluated += config.epochs * num_test
        if config.trainer.greedy_soup:
            evaluated += (config.epochs - 1) * num_validation
        return (
            self.start_seconds
            + shared.check_seconds * sum(self.num_documents[split] for split in encoded_splits(config))
            + config.epochs * (self.train_seconds * num_train + self.epoch_seconds)
            + self.evaluate_seconds * evaluated
            + self.finish_seconds
        )

    @property
    def bytes(self) -> float:
        """The size of a finished run's folder."""
        evaluated = self.num_documents["validation"] + self.num_documents["test"]
        return self.finished_bytes + self.prediction_bytes * evaluated


def mean_cost(costs: Sequence[RunCost]) -> RunCost:
    """Return the mean cost of parallel runs of one group."""
    means = {
        name: sum(getattr(each, name) for each in costs) / len(costs)
        for name in RunCost.__dataclass_fields__
        if name not in ("num_documents", "measured", "hardware")
    }
    first = costs[0]
    return RunCost(num_documents=first.num_documents, measured=first.measured, hardware=first.hardware, **means)


def parallel_seconds(runs: Iterable[tuple[int, float]], jobs: int) -> float:
    """Return the wall time of runs if `jobs` of them train at the same time.

    `runs` has a pair for each group: the number of its runs, and the wall time of one run in seconds.
    """
    pairs = [(number, seconds) for number, seconds in runs if number > 0]
    if not pairs:
        return 0.0
    busy = sum(number * seconds for number, seconds in pairs)
    longest = max(seconds for _, seconds in pairs)
    return max(longest, busy / min(jobs, sum(number for number, _ in pairs)))


@dataclass(frozen=True)
class SharedWork:
    """The work that several groups share and do once: tokenization, and encoding with a frozen encoder.

    `num_documents` is the number of documents in all splits. `num_encoded` is the number in the encoded splits.
    `is_done` is true if a run of these groups has finished. The cache is then assumed to contain the results.
    """

    cost: SharedCost
    num_documents: int
    num_encoded: int
    is_done: bool

    @property
    def seconds(self) -> float:
        if self.is_done:
            return 0.0
        return self.num_documents * self.cost.tokenize_seconds + self.num_encoded * self.cost.encode_seconds

    @property
    def bytes(self) -> float:
        """The size of the encoder's output that is still to be cached."""
        return 0.0 if self.is_done else self.num_encoded * self.cost.feature_bytes


@dataclass(frozen=True)
class GroupEstimate:
    """The runs of one group. `seconds` is the wall time of one run.

    `jobs` is the number of runs that train at the same time. They may belong to different groups.
    `cost` is None if all runs are done, or if they cannot be measured. In the second case, `problem` says why.
    """

    name: str
    num_runs: int
    num_done: int
    jobs: int = 1
    cost: RunCost | None = None
    seconds: float = 0.0
    problem: str = ""

    @property
    def num_remaining(self) -> int:
        return self.num_runs - self.num_done

    @property
    def total_seconds(self) -> float:
        """The wall time of the group's remaining runs, with `jobs` runs at a time."""
        return self.num_remaining * self.seconds / self.jobs

    @property
    def total_bytes(self) -> float:
        return 0.0 if self.cost is None else self.num_remaining * self.cost.bytes


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of all remaining runs.

    `start_seconds` is the time to import all modules and to read the documents. `measured_seconds` is the time that
    the measurement took. `load` is the mean number of busy processes just before the measurement.
    """

    groups: tuple[GroupEstimate, ...]
    shared: tuple[SharedWork, ...]
    start_seconds: float
    measured_seconds: float
    load: float = 0.0

    @property
    def num_runs(self) -> int:
        return sum(group.num_runs for group in self.groups)

    @property
    def num_done(self) -> int:
        return sum(group.num_done for group in self.groups)

    @property
    def seconds(self) -> float:
        """The wall time of all remaining runs on this machine, including the work that is done only once."""
        jobs = max((group.jobs for group in self.groups), default=1)
        runs = ((group.num_remaining, group.seconds) for group in self.groups)
        return self.once_seconds + parallel_seconds(runs, jobs)

    @property
    def once_seconds(self) -> float:
        """The wall time of the work that is done once for all runs: the start, tokenization and encoding."""
        return self.start_seconds + sum(each.seconds for each in self.shared)

    @property
    def bytes(self) -> float:
        """The size of all folders of the remaining runs, once they are finished."""
        return sum(group.total_bytes for group in self.groups)

    @property
    def peak_bytes(self) -> float:
        """The peak size of the remaining runs' folders, which is reached while the last runs train."""
        training = (min(each.jobs, each.num_remaining) * each.cost.training_bytes for each in self.groups if each.cost)
        return self.bytes + max(training, default=0.0)

    @property
    def feature_bytes(self) -> float:
        return sum(each.bytes for each in self.shared)
