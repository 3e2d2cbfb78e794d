"""Tests for the greedy soup of the weights after several epochs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.processes import TINY, run, run_folder
from support.trainers import distance, make, points, weights, weights_after_epochs

from imdbcls.models.metrics import metrics_of
from imdbcls.reevaluation import evaluate
from imdbcls.tracking import Trackers
from imdbcls.training.selection import rank
from imdbcls.training.soup import Rank, Soup, greedy_soup

OPTIONS = ("trainer.greedy_soup=true", "epochs=5", "lr=2e-3", "schedule=constant", "warmup=0", "head=attention")


def test_soup_has_the_best_epoch_and_those_that_do_not_make_it_worse() -> None:
    """The best weight is 2. The mean of 2.4 and 1.2 is closer to 2 than 2.4 is. A third weight makes the mean worse."""
    after = {1: 4.0, 2: 1.2, 3: 2.4, 4: 8.0}
    tried: list[tuple[int, ...]] = []

    def rank(value: float) -> Rank:
        return (-abs(value - 2), 0.0)

    def evaluated(soup: Soup) -> Rank:
        tried.append(soup.epochs)
        return rank(soup.weights["w"].item())

    ranks = {epoch: rank(value) for epoch, value in after.items()}
    soup = greedy_soup(ranks, lambda epoch: {"w": torch.tensor([after[epoch]]), "n": torch.tensor(epoch)}, evaluated)
    assert soup.epochs == (3, 2)
    assert tried == [(3, 2), (3, 2, 1), (3, 2, 4)]
    assert soup.weights["w"].item() == pytest.approx(1.8) and soup.weights["n"].item() == 3


def test_all_epochs_have_equal_shares_and_equal_ranks_are_accepted() -> None:
    after = {1: 1.0, 2: 2.0, 3: 6.0, 4: 7.0}
    soup = greedy_soup(
        dict.fromkeys(after, (0.5, 0.0)), lambda epoch: {"w": torch.tensor(after[epoch])}, lambda soup: (0.5, 0.0)
    )
    assert soup.epochs == (1, 2, 3, 4) and soup.weights["w"].item() == pytest.approx(4.0)


@pytest.mark.parametrize("options", ((), ("backbone.freeze=true", "lr=0.05")), ids=("trained", "frozen"))
def test_the_mean_of_the_chosen_epochs_is_saved_and_does_not_change_training(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    plain = make(tmp_path / "plain", *OPTIONS, *options, "trainer.greedy_soup=false")
    plain.fit(Trackers())
    trainer = make(tmp_path / "soup", *OPTIONS, *options)
    history = weights_after_epochs(trainer)
    for key in ("train/loss", "val/loss"):
        assert points(tmp_path / "plain", key) == points(tmp_path / "soup", key)
    chosen = trainer.soup_epochs
    assert chosen[0] == trainer.state.best_epoch == plain.state.best_epoch and len(chosen) > 1
    best = load_file(tmp_path / "soup" / "checkpoints" / "best" / "model.safetensors")
    for name, tensor in weights(trainer.evaluation_model.model).items():
        mean = sum(history[epoch][name] for epoch in chosen) / len(chosen)
        torch.testing.assert_close(tensor, mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(tensor, best[name])
    validation = trainer.evaluator.scores("validation", trainer.batches.validation)
    assert (validation == trainer.final_validation()).all()
    metrics = metrics_of(trainer.batches.validation.labels, validation)
    assert rank("accuracy", metrics["accuracy"], metrics["loss"]) >= (
        trainer.state.best_value,
        -trainer.state.best_loss,
    )
    assert {path.name for path in (tmp_path / "soup" / "checkpoints").iterdir()} == {"best", "last"}


@pytest.mark.parametrize("moment", ("in the soup", "after the soup"))
def test_a_run_killed_at_its_end_gets_the_same_soup(moment: str, tmp_path: Path) -> None:
    undisturbed = make(tmp_path / "undisturbed", *OPTIONS)
    undisturbed.fit(Trackers())
    killed = make(tmp_path / "killed", *OPTIONS)

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    if moment == "in the soup":
        killed.saver.save_soup = kill  # the model already has averaged weights
    else:
        killed.saver.load_best = lambda state: (killed.saver.wait(), kill())
    with pytest.raises(KeyboardInterrupt):
        killed.fit(Trackers())
    assert (tmp_path / "killed" / "checkpoints" / "epochs").exists()
    again = make(tmp_path / "killed", *OPTIONS)
    assert again.resume() == undisturbed.state.step
    again.fit(Trackers())
    assert again.soup_epochs == undisturbed.soup_epochs and len(again.soup_epochs) > 1
    found, expected = (weights(trainer.evaluation_model.model) for trainer in (again, undisturbed))
    assert distance(found, expected) == 0
    assert (again.final_validation() == undisturbed.final_validation()).all()
    assert {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()} == {"best", "last"}


@pytest.mark.slow
def test_a_run_records_its_soup(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = run(tmp_path, *TINY, *OPTIONS).output
    folder = run_folder(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert result["soup_epochs"][0] == result["best_epoch"]
    chosen = ", ".join(map(str, result["soup_epochs"]))
    assert (
        f"(mean of epochs {chosen})" if "," in chosen else f"(best epoch {chosen}; no mean of epochs is better)"
    ) in shown
    capfd.readouterr()
    for split in ("test", "validation"):
        evaluate(folder, split)
    assert capfd.readouterr().err.count("The metrics equal the recorded ones to the last digit.") == 2
