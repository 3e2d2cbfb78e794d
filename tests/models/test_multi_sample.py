"""Multi-sample dropout: the mean of the losses of several dropout masks, in training only."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.heads import MAKERS, make_batch
from support.trainers import make
from torch import nn

from imdbcls.errors import UserError
from imdbcls.models.multi_sample import sample_dropout
from imdbcls.training.losses import CrossEntropy, Objective


@pytest.mark.parametrize("name", MAKERS)
def test_training_returns_samples_and_evaluation_does_not_change(name: str) -> None:
    head = MAKERS[name](128)
    sampled = copy.deepcopy(head)
    sample_dropout(sampled, name, 5, 0.5)
    sampled = copy.deepcopy(sampled)  # an EMA of the weights also copies the head
    batch = make_batch()
    logits_SBC = sampled.train()(*batch)
    assert logits_SBC.shape == (5, *head.eval()(*batch).shape)
    assert all(not torch.equal(logits_SBC[0], each) for each in logits_SBC[1:])
    assert torch.equal(sampled.eval()(*batch), head(*batch))
    assert sampled.state_dict().keys() == head.state_dict().keys()


def test_masks_by_hand() -> None:
    """The input (1, 2) has four possible masks. The objective is the mean of the losses, not the loss of the mean."""
    head = nn.Module()
    head.output = nn.Linear(2, 2, bias=False)
    head.output.weight.data = torch.eye(2)
    sample_dropout(head, "mine", 400, 0.5)
    torch.manual_seed(0)
    logits_SBC = head.train().output(torch.tensor([[1.0, 2.0]]))
    found, counts = torch.unique(logits_SBC[:, 0], dim=0, return_counts=True)
    assert found.tolist() == [[0.0, 0.0], [0.0, 4.0], [2.0, 0.0], [2.0, 4.0]] and (counts > 70).all()
    labels_B = torch.tensor([1])
    objective = Objective(CrossEntropy(class_weights_C=None, label_smoothing=0.0), 0.0)
    losses = F.cross_entropy(found, labels_B.expand(4), reduction="none")
    torch.testing.assert_close(objective([logits_SBC], labels_B), (losses * counts).sum() / 400)


@pytest.mark.parametrize("options", [(), ("data.truncation=windows", "max_length=24")])
def test_micro_batches_add_up(options: tuple[str, ...], tmp_path: Path) -> None:
    """Without any dropout, the samples are equal, and a step has the loss of plain training."""
    still = ("backbone.dropout=0", "head=linear", "head.dropout=0", "trainer.micro_batch_size=3", *options)
    sampled = make(tmp_path / "sampled", *still, "loss.dropout_samples=4", "loss.sample_dropout=1e-9")
    plain = make(tmp_path / "plain", *still)
    losses = [trainer.step(next(trainer.batches.train.epoch(0)))[0] for trainer in (sampled, plain)]
    torch.testing.assert_close(*losses)


def test_head_without_output_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"loss\.dropout_samples=8 needs a head .* head=mine has none"):
        sample_dropout(nn.Sequential(nn.Linear(2, 2)), "mine", 8, 0.5)
