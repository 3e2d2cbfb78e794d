"""`checkpoint.keep` removes checkpoints when a run has ended, and changes nothing else."""

import shutil
from pathlib import Path

import pytest
from support.processes import TINY

import imdbcls
from imdbcls.errors import UserError
from imdbcls.runs.folder import run_folder
from imdbcls.runs.record import SPLITS
from imdbcls.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of runs that differ only in `checkpoint.keep`."""
    folder = tmp_path_factory.mktemp("kept")
    found = {}
    for keep in ("all", "best", "none"):
        config = imdbcls.compose(*TINY, "epochs=1", f"checkpoint.keep={keep}", f"runs_dir={folder}", f"study={keep}")
        train(config)
        found[keep] = run_folder(config).path
    return found


def test_only_the_chosen_checkpoints_are_kept(runs: dict[str, Path]) -> None:
    kept = {keep: sorted(path.name for path in run.glob("checkpoints/*")) for keep, run in runs.items()}
    assert kept == {"all": ["best", "last"], "best": ["best"], "none": []}


def test_the_checkpoints_to_keep_change_no_result(runs: dict[str, Path]) -> None:
    assert len({run.name for run in runs.values()}) == 1
    for split in SPLITS:
        assert len({(run / "predictions" / f"{split}.parquet").read_bytes() for run in runs.values()}) == 1
    weights = {(runs[keep] / "checkpoints/best/model.safetensors").read_bytes() for keep in ("all", "best")}
    assert len(weights) == 1


def test_a_run_with_few_checkpoints_is_complete(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for keep in ("best", "none"):
        config = imdbcls.compose(*TINY, "epochs=1", f"runs_dir={runs[keep].parent.parent}", f"study={keep}")
        train(config)
        assert "is already done" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "kept"), [("all", ["best", "last"]), ("best", ["best"]), ("none", [])])
def test_checkpoints_left_by_a_killed_process_are_removed(
    keep: str, kept: list[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    """The config in the run's folder decides, not the config of the command that finds the finished run."""
    run = shutil.copytree(runs["all"], tmp_path / "killed" / runs["all"].name)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  keep: all", f"  keep: {keep}"))
    other = "all" if keep == "none" else "none"
    train(imdbcls.compose(*TINY, "epochs=1", f"runs_dir={tmp_path}", "study=killed", f"checkpoint.keep={other}"))
    assert sorted(path.name for path in run.glob("checkpoints/*")) == kept


def test_the_best_weights_are_enough_to_predict(runs: dict[str, Path]) -> None:
    one, other = (imdbcls.load_run(runs[keep]).predict(["A quiet, patient film."]) for keep in ("all", "best"))
    assert (one.probabilities == other.probabilities).all()


def test_an_error_says_that_a_run_has_no_weights(runs: dict[str, Path]) -> None:
    problem = "has no weights, because it was trained with checkpoint.keep=none or its checkpoints were deleted"
    with pytest.raises(UserError, match=problem):
        imdbcls.load_run(runs["none"]).predict(["A quiet, patient film."])
    chosen = ("backbone=minilm", f"backbone.path={runs['none']}")
    with pytest.raises(UserError, match=f"backbone.path=.*: this run {problem}"):
        imdbcls.compose(*TINY, *chosen, f"runs_dir={runs['none'].parent}", "study=next")
