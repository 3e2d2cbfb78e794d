"""A trial of a tuning study: it can be pruned after an epoch, never sees the test split, and cannot become a run."""

import json
from pathlib import Path

import pytest
from support.api import TINY

import imdbcls
from imdbcls.comparison.run_files import BadRunError, check_result
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.runs.folder import run_folder
from imdbcls.sweeps.jobs import outcome_of
from imdbcls.train import train
from imdbcls.training import feature_cache
from imdbcls.training.evaluation import Evaluator


def config_in(folder: Path) -> Config:
    return imdbcls.compose(*TINY, f"runs_dir={folder}/runs", "epochs=3", "data.train_limit=32", "data.test_limit=20")


def test_a_pruned_trial_stops_after_its_epoch_and_is_recorded_as_pruned(tmp_path: Path) -> None:
    config, reported = config_in(tmp_path), []
    result = train(config, lambda epoch, value: reported.append((epoch, value)) is None and epoch == 2)
    assert [epoch for epoch, _ in reported] == [1, 2]
    assert result["status"] == "pruned" and result["epochs"] == 2 and result["best_epoch"] in (1, 2)
    assert result["val/accuracy"] == max(value for _, value in reported)
    assert not [key for key in result if key.startswith("test")]
    folder = run_folder(config)
    assert json.loads((folder.path / "result.json").read_text()) == result
    assert not (folder.path / "predictions").exists() and not folder.checkpoints.exists()
    outcome = outcome_of("a", 0, "", result)
    assert outcome.state == "pruned" and outcome.detail.endswith("after epoch 2")
    with pytest.raises(BadRunError, match="it was pruned during tuning"):
        check_result(result, tmp_path)


def test_pruning_after_the_last_epoch_leaves_a_finished_trial(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    result = train(config, lambda epoch, value: epoch == 3)
    assert result["status"] == "trial" and outcome_of("a", 0, "", result).state == "done"
    assert train(config, lambda epoch, value: pytest.fail("the trial is finished")) == result
    with pytest.raises(BadRunError, match="trial of a tuning study"):
        check_result(result, tmp_path)


def test_a_trial_and_a_run_of_one_config_cannot_share_a_folder(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    trial = train(config, lambda epoch, value: False)
    with pytest.raises(UserError, match="is a trial of a tuning study"):
        train(config)
    other = config.with_changes(study="other")
    run = train(other)
    assert run["status"] == "done" and run["val/accuracy"] == trial["val/accuracy"]  # trained in the same way
    with pytest.raises(UserError, match="not a trial"):
        train(other, lambda epoch, value: False)


@pytest.mark.parametrize("overrides", ((), ("backbone.freeze=true",)))
def test_a_trial_never_evaluates_or_encodes_test(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = []
    scores, encode_once = Evaluator.scores, feature_cache.encode_once
    monkeypatch.setattr(Evaluator, "scores", lambda self, *given: splits.append(given[0]) or scores(self, *given))
    monkeypatch.setattr(
        "imdbcls.build.encode_once",
        lambda model, backbone, batches, *a, **k: (
            splits.extend(batches) or encode_once(model, backbone, batches, *a, **k)
        ),
    )
    cache = f"data.cache_dir={tmp_path}/cache"
    config = imdbcls.compose(*TINY, f"runs_dir={tmp_path}/runs", cache, *overrides)
    train(config, lambda epoch, value: False)
    assert "validation" in splits and "test" not in splits
    train(config.with_changes(study="other"))
    assert "test" in splits
