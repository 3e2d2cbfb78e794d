"""The text of an estimate: what the runs cost, what is not covered, and limits that the runs would exceed."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from imdbcls.config.overrides import compose
from imdbcls.config.schema import Config
from imdbcls.printable import duration
from imdbcls.sweeps.cost import Estimate, GroupEstimate, RunCost, SharedCost, SharedWork
from imdbcls.sweeps.cost_table import report, size

COST = RunCost(
    num_documents={"train": 20_000, "validation": 5_000, "test": 25_000},
    measured=1_024,
    start_seconds=2.0,
    train_seconds=0.01,
    finished_bytes=3e8,
    training_bytes=2e8,
    hardware="CPU, 2 threads, bf16",
)
GROUPS = (
    GroupEstimate("cls", num_runs=5, num_done=5),
    GroupEstimate("lstm", num_runs=5, num_done=1, cost=COST, seconds=1800),
    GroupEstimate("mean", num_runs=5, num_done=0, problem="not enough memory"),
)
ENCODING = SharedWork(SharedCost(0.001, encode_seconds=0.1, feature_bytes=200_000), 50_000, 50_000, is_done=False)
ESTIMATE = Estimate(GROUPS, (ENCODING,), start_seconds=10, measured_seconds=40)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50e9))
    return compose(("backbone=tiny", "data=sample", f"runs_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/cache"))


def test_the_table_has_a_row_for_each_group(config: Config) -> None:
    lines = report(ESTIMATE, config, width=None).splitlines()
    assert lines[0] == "Estimate before anything trains: 15 runs, 6 of them done, about 3.4 h on this machine."
    rows = {line.split("  ")[0]: line.split() for line in lines[4:9]}
    assert rows["cls"] == ["cls", "5", "0", "done"]
    assert rows["lstm"] == ["lstm", "5", "4", "30", "min", "2.0", "h", "300", "MB"]
    assert rows["mean"] == ["mean", "5", "5", "not", "measured"]
    assert rows["once: start, tokens, encoding"][4:] == ["84", "min"]
    assert rows["total"] == ["total", "15", "9", "3.4", "h"]
    text = " ".join(lines)
    assert "Disk: 1.2 GB for the run folders, at most 1.4 GB during training; 50 GB are free." in text
    assert "The frozen encoder's output takes another 10 GB" in text
    assert "1,024 training documents (CPU, 2 threads, bf16)" in text
    assert "The total does not include mean, which could not be measured: not enough memory." in text
    assert "Not included: downloads" in text and "Warning" not in text


@pytest.mark.parametrize(
    ("free", "cache_gb", "warning"),
    (
        (11e9, 25, "Warning: the disk of {}/runs is too small."),
        (11e9, 25, "Warning: the disk of {}/cache is too small."),
        (50e9, 9, "Warning: the feature cache would exceed backbone.cache_gb=9."),
    ),
)
def test_a_limit_that_the_runs_would_exceed_is_named(
    free: float, cache_gb: float, warning: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    limited = config.with_changes(backbone={"cache_gb": cache_gb})
    assert warning.format(tmp_path) in report(ESTIMATE, limited, width=10_000)


def test_fewer_checkpoints_are_proposed_for_a_small_disk(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    proposal = "or keep fewer checkpoints (checkpoint.keep=best)."
    assert proposal in report(ESTIMATE, config, width=10_000)
    fewer = config.with_changes(checkpoint={"keep": "best"})
    assert "checkpoint.keep" not in report(ESTIMATE, fewer, width=10_000)


def test_a_busy_machine_is_mentioned(config: Config) -> None:
    text = report(replace(ESTIMATE, load=1_000.0), config, width=10_000)
    assert "Warning: other programs used the processors (load 1000.0 on " in text


def test_a_measurement_that_takes_longer_than_the_runs_is_mentioned(config: Config) -> None:
    assert "Measured in 40 s with" in report(ESTIMATE, config, width=10_000)
    text = report(replace(ESTIMATE, measured_seconds=1e6), config, width=10_000)
    assert "Measured in 278 h (longer than the runs themselves) with" in text


def test_several_groups_can_share_a_measurement(config: Config) -> None:
    (measured,) = (group for group in ESTIMATE.groups if group.cost is not None)
    text = report(replace(ESTIMATE, groups=(measured, measured)), config, width=10_000)
    assert "Measured in 40 s: a run of each group" in text and "share a measurement" in text
    assert "share a measurement" not in report(ESTIMATE, config, width=10_000)


def test_numbers_are_short() -> None:
    assert [duration(seconds) for seconds in (0.0, 0.42, 0.96, 45, 100, 4_000, 9_000, 360_000)] == [
        *("0.0 s", "0.4 s", "1 s", "45 s", "1.7 min", "67 min", "2.5 h", "100 h"),
    ]
    assert [size(num_bytes) for num_bytes in (5e4, 3.5e8, 1.234e9, 2e10)] == ["0.1 MB", "350 MB", "1.2 GB", "20 GB"]
