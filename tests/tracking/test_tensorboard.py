"""TensorBoard event files, read back with TensorBoard's own reader."""

from pathlib import Path
from typing import Any

import pytest
from support.invented_run import NAME, STUDY, end, log_data, options, point, rewind, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking.tensorboard import TensorboardTracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOLDER = STUDY / "tensorboard" / NAME


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tracker(**changes: Any) -> TensorboardTracker:
    return TensorboardTracker(**options(tags=["a", 2024], notes="first try") | changes)


def logged() -> EventAccumulator:
    return EventAccumulator(str(FOLDER), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def values(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in events.Scalars(name)]


def text(events: EventAccumulator, name: str) -> str:
    (event,) = events.Tensors(f"{name}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_a_run_has_its_curves_texts_and_final_metrics() -> None:
    with tracker() as run:
        log_data(run)
        train(run, range(1, 21))
        end(run)
    events = logged()
    for name in point(10):
        if name != "step":
            expected = [(step, point(step)[name]) for step in range(1, 21) if name in point(step)]
            assert values(events, name) == [(step, pytest.approx(value)) for step, value in expected]
    about = text(events, "run")
    assert "| study | first |" in about and "lstm, minilm, imdb, a, 2024" in about and "first try" in about
    config = text(events, "config")
    assert "| head.bidirectional | false |" in config and "| data.train_limit | null |" in config
    data = text(events, "data")
    assert "| split_hash | 5911 |" in data and "| documents.train | 12 |" in data and "| train | 9.5 |" in data
    assert "| negative | 2 | 0 |" in text(events, "test/confusion_matrix")
    assert "| t7 | Not bad \\| at all. | positive | negative | 0.99 |" in text(events, "test/mistakes")
    assert values(events, "test/accuracy") == [(21, 0.75)]
    assert values(events, "final/val/accuracy") == [(21, pytest.approx(0.81))]
    assert "| versions.torch | 2 |" in text(events, "result")


def test_the_hparams_page_gets_the_config_and_the_metrics() -> None:
    with tracker() as run:
        train(run, range(1, 3))
        end(run)
    content = logged().summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["lr"].number_value == 3e-5 and hparams["head.name"].string_value == "lstm"
    assert hparams["head.bidirectional"].bool_value is False and hparams["data.train_limit"].string_value == "null"
    content = logged().summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    metrics = metadata.parse_experiment_plugin_data(content).metric_infos
    assert {each.name.tag for each in metrics} == {"test/accuracy", "final/val/accuracy"}


def test_a_resumed_run_has_each_step_once() -> None:
    killed = tracker().__enter__()
    log_data(killed)
    train(killed, range(1, 16))  # no `__exit__`: the process was killed
    rewind(10)
    with tracker(resumed_step=10) as run:
        log_data(run)
        train(run, range(11, 21))
        end(run)
    events = logged()
    assert [step for step, _ in values(events, "train/loss")] == list(range(1, 21))
    assert [step for step, _ in values(events, "val/loss")] == [10, 20]
    for name in ("run", "config", "data", "test/mistakes"):
        text(events, name)


def test_a_run_that_is_killed_at_its_end_has_each_result_once() -> None:
    killed = tracker().__enter__()
    train(killed, range(1, 11))
    end(killed)
    with tracker(resumed_step=10) as run:
        end(run)
    assert values(logged(), "test/accuracy") == [(11, 0.75)]
    assert values(logged(), "final/val/accuracy") == [(11, pytest.approx(0.81))]


def test_a_run_that_resumes_with_a_new_tracker_has_its_earlier_steps() -> None:
    with tracker() as other:
        train(other, range(1, 16))
    for file in FOLDER.iterdir():
        file.unlink()
    rewind(10)
    with tracker(resumed_step=10) as run:
        train(run, range(11, 21))
    assert [step for step, _ in values(logged(), "train/loss")] == list(range(1, 21))


def test_a_run_that_starts_again_replaces_the_earlier_one() -> None:
    with pytest.raises(Interrupted), tracker() as run:
        train(run, range(1, 16))
        raise Interrupted(15)
    rewind(0)
    with tracker() as run:
        train(run, range(1, 4))
    assert [step for step, _ in values(logged(), "train/loss")] == [1, 2, 3]
