"""Estimate the hours and the disk space of runs before any of them trains, from a short measurement on this machine.

Each group is measured in forked processes, like the jobs of a multirun. The processes leave no files: all
their files are in a temporary folder, which is removed.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from imdbcls.config.schema import Config
from imdbcls.config.signatures import LAST_LAYERS, own_signature
from imdbcls.construction import build_corpus
from imdbcls.runs.folder import run_folder
from imdbcls.runs.identity import digest
from imdbcls.runtime.signals import current_handlers, restored_handlers, set_handlers
from imdbcls.sweeps.cost import Estimate, GroupEstimate, RunCost, SharedCost, SharedWork, encoded_splits, mean_cost
from imdbcls.sweeps.jobs import Sweep
from imdbcls.sweeps.preparing import prepare_jobs
from imdbcls.sweeps.slots import num_jobs

logger = logging.getLogger(__name__)

Job = Callable[[Config, Path], None]  # measures a run with files in a folder, and writes `ANSWER` there

# Keys of a config and of its optimizer that affect neither the time per training step nor the time to evaluate a
# document.
WITHOUT_SPEED = ("lr", "head_lr", "warmup", "schedule", "epochs", "metric")

ANSWER = "answer.json"
SUCCESS = "exit code 0"  # `Outcome.detail` of a successful measurement: the sweep reads no `result.json`


@dataclass(frozen=True)
class Group:
    """The configs of a group's runs, which differ only in their seeds. `remaining`: configs of the unfinished runs."""

    name: str
    configs: tuple[Config, ...]
    remaining: tuple[Config, ...]

    def estimated(self, work: SharedWork | None, costs: Sequence[RunCost], problem: str = "") -> GroupEstimate:
        """Return the estimate from the mean of `costs`, one for each of the runs that ran at the same time.

        `problem` says why the measurement failed.
        """
        num_done = len(self.configs) - len(self.remaining)
        if work is None or not costs:
            return GroupEstimate(self.name, len(self.configs), num_done, problem=problem)
        config, cost = self.remaining[0], mean_cost(costs)
        seconds = cost.seconds(config, work.cost)
        return GroupEstimate(self.name, len(self.configs), num_done, len(costs), cost, seconds)


def estimate(groups: Mapping[str, Sequence[Config]]) -> Estimate:
    """Return the estimated cost of the unfinished runs. `groups` maps a group's name to the configs of its runs.

    If a group cannot be measured, the reason is logged and is the `problem` of the group's estimate. Raise SystemExit
    after a signal.
    """
    found = [group_of(name, configs) for name, configs in groups.items()]
    estimates = {group.name: group.estimated(None, ()) for group in found}
    works, started, load = [], time.monotonic(), os.getloadavg()[0]
    with temporary_folder() as folder:
        measuring = Measuring(folder, num_runs=sum(len(group.remaining) for group in found))
        for same in by_shared_work(found):
            work, estimated = measuring.groups(same)
            works += [] if work is None else [work]
            estimates |= {each.name: each for each in estimated}
    elapsed = time.monotonic() - started
    return Estimate(tuple(estimates.values()), tuple(works), measuring.start_seconds, elapsed, load)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield the path of a temporary folder, which is removed after the block.

    A signal in the block raises SystemExit.
    """
    with restored_handlers(), tempfile.TemporaryDirectory(prefix="imdbcls-estimate-") as folder:
        set_handlers(dict.fromkeys(current_handlers(), exit_after_signal))  # so that the folder is removed
        yield Path(folder)


def exit_after_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def group_of(name: str, configs: Sequence[Config]) -> Group:
    remaining = tuple(config for config in configs if run_folder(config).complete() is None)
    return Group(name, tuple(configs), remaining)


def by_shared_work(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Yield lists of groups that share tokens and encoder output; groups without unfinished runs are left out."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if group.remaining:
            found.setdefault(key_of_shared_work(group.remaining[0]), []).append(group)
    yield from found.values()


def key_of_shared_work(config: Config) -> str:
    """Return a hash of the keys that determine the tokens and the cached output of a frozen encoder."""
    choices, head = config.choices(seeds=False), own_signature(config.head.target)
    keys = ("backbone", "data", "max_length", "eval_batch_size", "precision", "device")
    several_layers = head is None or head.reads_all_layers or head.reads_last_layers
    read = [config.head.target, config.head.arguments.get(LAST_LAYERS)] if several_layers else "last"
    return digest({**{key: choices[key] for key in keys}, "head_input": read, "encoded": encoded_splits(config)})


def key_of_speed(config: Config, copies: int) -> str:
    """Return a hash of `copies`, the number of parallel runs, and of the config keys that affect the speed.

    Runs with the same hash are assumed to take the same time per step.
    """
    choices = config.choices(seeds=False)
    kept = {key: value for key, value in choices.items() if key not in WITHOUT_SPEED}
    kept["optimizer"] = {key: value for key, value in choices["optimizer"].items() if key not in WITHOUT_SPEED}
    return digest({**kept, "copies": copies})


class Measuring:
    """The measurements of one estimate for `num_runs` runs, in processes that write only to `folder`.

    `start_seconds` is the time to import all modules and to read the documents.
    """

    def __init__(self, folder: Path, num_runs: int) -> None:
        self.folder, self.num_runs = folder, num_runs
        self.start_seconds = 0.0
        self._costs: dict[str, list[RunCost]] = {}  # `key_of_speed` to the costs of parallel runs
        self._sweep = Sweep()

    def groups(self, groups: Sequence[Group]) -> tuple[SharedWork | None, list[GroupEstimate]]:
        """Return the cost of the groups' shared work (None if it cannot be measured), and an estimate per group."""
        config = groups[0].remaining[0]
        logger.info(f"Measuring tokenization{' and encoding' if config.uses_feature_cache else ''} ...")
        answers = self.answers("tokenization", config, measure_shared)
        if not answers:
            return None, [group.estimated(None, (), self.problem) for group in groups]
        sizes = {split: len(documents) for split, documents in build_corpus(config.data).splits.items()}
        num_encoded = sum(sizes[split] for split in encoded_splits(config))
        is_done = any(len(group.remaining) < len(group.configs) for group in groups)
        work = SharedWork(SharedCost(**answers[0]), sum(sizes.values()), num_encoded, is_done)
        return work, [self.group(group, work) for group in groups]

    def group(self, group: Group, work: SharedWork) -> GroupEstimate:
        """Measure a group with as many parallel runs as will train at the same time, because they share the machine."""
        config = group.remaining[0]
        copies = min(num_jobs(config), self.num_runs)
        key = key_of_speed(config, copies)
        if key not in self._costs:
            logger.info(f"Measuring {group.name} ...")
            answers = self.answers(group.name, config, partial(measure_run, work.cost), copies)
            if not answers:
                return group.estimated(work, (), self.problem)
            self._costs[key] = [RunCost(**answer) for answer in answers]
        return group.estimated(work, self._costs[key])

    def answers(self, name: str, config: Config, job: Job, copies: int = 1) -> list[dict[str, Any]]:
        """Run copies of a job in parallel processes, and return what they wrote; [] if one of them failed."""
        folders = [Path(tempfile.mkdtemp(dir=self.folder)) for _ in range(copies)]
        for number, folder in enumerate(folders, start=1):
            copy = f"{name} ({number} of {copies})"
            self._sweep.run(copy, partial(self.prepare, config), partial(job, config, folder), lambda: None, copies)
        self._sweep.wait()
        if self._sweep.stopped_by is not None:
            raise SystemExit(128 + self._sweep.stopped_by)
        files = [folder / ANSWER for folder in folders]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        for folder in folders:
            shutil.rmtree(folder)
        return found if len(found) == copies else []

    @property
    def problem(self) -> str:
        """The reason why the last measurement failed."""
        return next(each.detail for each in reversed(self._sweep.outcomes) if each.detail != SUCCESS)

    def prepare(self, config: Config) -> None:
        started = time.perf_counter()
        prepare_jobs(config)
        self.start_seconds += time.perf_counter() - started


def measure_shared(config: Config, folder: Path) -> None:
    """Measure the work that several runs share. The measurement runs in this process."""
    from imdbcls.sweeps.shared_probe import write_shared_cost  # imports torch

    write_shared_cost(config, folder, folder / ANSWER)


def measure_run(shared: SharedCost, config: Config, folder: Path) -> None:
    """Measure a run in this process."""
    from imdbcls.sweeps.probe import write_run_cost  # imports torch

    write_run_cost(config, folder, folder / ANSWER, shared)
