"""The cost of a run, estimated by training on fewer documents, agrees with the cost of the complete run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults import PLUGINS
from support.processes import TINY

from imdbcls import construction
from imdbcls.config.overrides import compose
from imdbcls.config.schema import Config
from imdbcls.runs.folder import run_folder
from imdbcls.sweeps import probe
from imdbcls.sweeps.cost import SharedCost, encoded_splits
from imdbcls.sweeps.preparing import prepare_jobs
from imdbcls.sweeps.probe import measure_run, size_of
from imdbcls.sweeps.shared_probe import measure_shared
from imdbcls.train import train

SLEEPY = ("plugins=[sleepy]", "head._target_=sleepy.SleepyHead")


@pytest.fixture(autouse=True)
def all_documents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the documents that this process keeps, because a measurement replaces them with fewer documents."""
    monkeypatch.syspath_prepend(PLUGINS["PYTHONPATH"])
    construction._kept_corpus.clear()
    yield
    construction._kept_corpus.clear()


def measured(config: Config, folder: Path) -> tuple[SharedCost, float, float]:
    """Return the shared cost, and the seconds and bytes of one run."""
    prepare_jobs(config)
    shared = measure_shared(config, folder / "shared")
    construction._kept_corpus.clear()
    cost = measure_run(config, folder / "run", shared)
    construction._kept_corpus.clear()
    assert cost.num_documents == {"train": 96, "validation": 90, "test": 40}
    assert cost.measured <= 96, "a document that is timed twice counts once"
    return shared, cost.seconds(config, shared), cost.bytes


class Clock:
    """A clock in seconds that only the pauses of the sleepy head advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class CpuClock:
    """A clock that hardly depends on other processes."""

    perf_counter = time.process_time


def config_in(folder: Path, *choices: str) -> Config:
    return compose((*TINY, f"runs_dir={folder / 'runs'}", f"data.cache_dir={folder / 'cache'}", *choices))


def test_the_estimate_of_a_run_is_the_time_and_size_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FEW", 16)  # 16 documents, so that the measurement is smaller than the run
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr("sleepy.time", clock)
    config = config_in(tmp_path, *SLEEPY)
    _, seconds, num_bytes = measured(config, tmp_path / "probe")
    began = clock.now
    train(config)
    real_seconds = clock.now - began
    assert real_seconds > 0.02 * (2 * 96 + 2 * 90 + 40)
    assert seconds == pytest.approx(real_seconds, rel=0.01)
    assert num_bytes == pytest.approx(size_of(run_folder(config).path), rel=0.05)


@pytest.mark.parametrize("freeze", (False, True))
def test_the_estimated_size_depends_on_the_checkpoints_to_keep(freeze: bool, tmp_path: Path) -> None:
    costs = {}
    for keep in ("all", "best", "none"):
        config = config_in(tmp_path / keep, f"checkpoint.keep={keep}", f"backbone.freeze={freeze}")
        prepare_jobs(config)
        shared = measure_shared(config, tmp_path / keep / "shared")
        construction._kept_corpus.clear()
        costs[keep] = measure_run(config, tmp_path / keep / "probe", shared)
        construction._kept_corpus.clear()
        train(config)
        assert costs[keep].bytes == pytest.approx(size_of(run_folder(config).path), rel=0.05)
        construction._kept_corpus.clear()
    peak = costs["all"].finished_bytes + costs["all"].training_bytes
    for keep in ("best", "none"):
        assert costs[keep].finished_bytes + costs[keep].training_bytes == pytest.approx(peak, rel=0.01)


def test_a_frozen_encoder_is_measured_once_for_all_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FEW", 16)
    monkeypatch.setattr(probe, "time", CpuClock)
    config = config_in(tmp_path, "backbone.freeze=true")
    shared, _, num_bytes = measured(config, tmp_path / "probe")
    train(config)
    assert num_bytes == pytest.approx(size_of(run_folder(config).path), rel=0.05)
    features = sum(path.stat().st_size for path in (tmp_path / "cache" / "features").rglob("vectors.bin"))
    assert 226 * shared.feature_bytes == pytest.approx(features, rel=0.15)
    assert 0 < shared.check_seconds < shared.encode_seconds
    assert measure_shared(config_in(tmp_path), tmp_path / "trained").feature_bytes == 0


def test_the_encoding_for_epochs_of_the_head_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FEW", 16)
    monkeypatch.setattr(probe, "time", CpuClock)
    config = config_in(tmp_path, "trainer.head_first_epochs=1")
    shared, _, _ = measured(config, tmp_path / "probe")
    train(config)
    features = sum(path.stat().st_size for path in (tmp_path / "cache" / "features").rglob("vectors.bin"))
    assert encoded_splits(config) == ("train", "validation")
    assert 186 * shared.feature_bytes == pytest.approx(features, rel=0.15)
    assert 0 < shared.check_seconds < shared.encode_seconds
    uncached = config_in(tmp_path, "trainer.head_first_epochs=1", "backbone.cache=false")
    assert encoded_splits(uncached) == () and measure_shared(uncached, tmp_path / "uncached").feature_bytes == 0


def test_a_measurement_leaves_nothing_in_the_run_folder_or_the_cache(tmp_path: Path) -> None:
    measured(config_in(tmp_path, "backbone.freeze=true"), tmp_path / "probe")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()
