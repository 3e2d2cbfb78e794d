"""The cost of a study sums the measured costs over epochs, documents, runs and groups."""

from dataclasses import replace

import pytest

from imdbcls.config.overrides import compose
from imdbcls.sweeps.cost import Estimate, GroupEstimate, RunCost, SharedCost, SharedWork, mean_cost

COST = RunCost(
    num_documents={"train": 1000, "validation": 100, "test": 500},
    measured=64,
    start_seconds=2.0,
    train_seconds=0.01,
    evaluate_seconds=0.002,
    epoch_seconds=0.5,
    finish_seconds=3.0,
    finished_bytes=1e6,
    training_bytes=4e5,
    prediction_bytes=100,
    hardware="CPU",
)
SHARED = SharedCost(tokenize_seconds=0.001, encode_seconds=0.1, check_seconds=0.0005, feature_bytes=1000)
TINY = ("backbone=tiny", "data=sample", "tracker=none", "epochs=3")


def test_a_run_trains_and_validates_in_each_epoch_and_tests_once() -> None:
    expected = 2 + 3 * (1000 * 0.01 + 0.5) + (3 * 100 + 500) * 0.002 + 3
    assert COST.seconds(compose(TINY), SHARED) == pytest.approx(expected)
    for cached, num_checked in (("backbone.freeze=true", 1600), ("trainer.head_first_epochs=1", 1100)):
        assert COST.seconds(compose((*TINY, cached)), SHARED) == pytest.approx(expected + num_checked * 0.0005)
    watching = compose((*TINY, "trainer.score_test_each_epoch=true"))
    assert COST.seconds(watching, SHARED) == pytest.approx(expected + 3 * 500 * 0.002)
    assert COST.bytes == 1e6 + 600 * 100


def test_parallel_runs_share_the_time_and_the_disk() -> None:
    alone = GroupEstimate("cls", num_runs=5, num_done=1, jobs=1, cost=COST, seconds=100)
    parallel = replace(alone, name="lstm", jobs=3)
    assert alone.total_seconds == 400 and parallel.total_seconds == pytest.approx(400 / 3)
    short = replace(parallel, name="mean", num_done=4, seconds=50)
    few = Estimate((replace(parallel, num_done=4), short), (), start_seconds=10, measured_seconds=1)
    assert few.seconds == 10 + 100, "parallel jobs take at least as long as the longest run"
    work = SharedWork(SHARED, 1600, 1600, is_done=False)
    found = Estimate((replace(alone, jobs=3), parallel), (work,), start_seconds=10, measured_seconds=1)
    assert (found.num_runs, found.num_done) == (10, 2)
    assert found.seconds == pytest.approx(10 + 1600 * 0.101 + 800 / 3)
    assert found.feature_bytes == 1_600_000
    assert found.bytes == 8 * COST.bytes and found.peak_bytes == found.bytes + 3 * 4e5


def test_finished_groups_and_shared_work_cost_nothing() -> None:
    done = GroupEstimate("cls", num_runs=2, num_done=2)
    found = Estimate((done,), (SharedWork(SHARED, 1600, 1600, is_done=True),), start_seconds=0, measured_seconds=0)
    assert (found.seconds, found.bytes, found.peak_bytes, found.feature_bytes) == (0, 0, 0, 0)


def test_the_cost_of_parallel_runs_is_their_mean() -> None:
    slow = replace(COST, train_seconds=0.03)
    assert mean_cost([COST, slow]) == replace(COST, train_seconds=0.02)
