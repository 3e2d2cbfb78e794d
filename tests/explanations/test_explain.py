"""Explanations of real runs, and a linear model whose integrated gradients are known."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.float64 import Float64OnCpuOnly
from support.runs import TINY, Launch
from torch import Tensor, nn

import imdbcls
from imdbcls.data.batch import Batch
from imdbcls.explanations import explain
from imdbcls.explanations.attribution import integrated_gradients
from imdbcls.explanations.reading import read
from imdbcls.heads.mean import MeanHead
from imdbcls.models.classifier import Classifier
from imdbcls.models.inference import logits_of
from imdbcls.runtime.device import Hardware

pytestmark = pytest.mark.slow

TEXT = "A quiet, patient film. I don't like <b>it</b>, though: two hours that I want back!"
LONG = " ".join(f"{TEXT} {number}" for number in range(12))


class TableEncoder(nn.Module):
    """An encoder that returns the embedding of each token, so that a model with a mean head is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)
        self.table.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [9.0, 9.0], [1.0, 2.0], [3.0, -1.0], [-2.0, 0.5]]))
        self.config = SimpleNamespace(model_type="table")

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def test_linear_model_by_hand() -> None:
    """In a linear model, a token's score is the dot product of gradient and embedding change, for any number of steps.

    Token 1 is special and stays in the baseline; 0 is padding. Class 1 has the weights (2, -1) and reads the mean over
    the four tokens: token 2 gets (2 * 1 - 1 * 2) / 4, token 3 (2 * 3 + 1) / 4, token 4 (2 * -2 - 0.5) / 4.
    """
    head = MeanHead(hidden_size=2, num_labels=2)
    head.output.weight = nn.Parameter(torch.tensor([[1.0, 1.0], [2.0, -1.0]]))
    head.output.bias = nn.Parameter(torch.tensor([0.0, 7.0]))
    ids_BT, mask_BT = torch.tensor([[1, 2, 3, 4, 0]]), torch.tensor([[True, True, True, True, False]])
    batch = Batch(ids_BT, mask_BT, None, torch.zeros(1, dtype=torch.int64), np.zeros(1, dtype=np.int64), 4)
    found = integrated_gradients(Classifier(TableEncoder(), head).eval(), batch, torch.tensor([[1, 0, 0, 0, 0]]), 1)
    assert found.scores_WT.tolist() == [pytest.approx([0.0, 0.0, 1.75, -1.125, 0.0], abs=1e-6)]
    assert found.logits_C[1].item() == pytest.approx(7 + (9 + 0 + 7 - 4.5) / 4)
    assert found.baseline_logits_C[1].item() == pytest.approx(7 + 9 / 4)
    assert found.error < 1e-6


@pytest.fixture(scope="module")
def runs(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, imdbcls.FinishedRun]:
    """Return float32 runs of the heads `weight_avg` and `attention`, which have pooling weights."""
    folder = tmp_path_factory.mktemp("explained")
    shared = (*TINY, "epochs=1", "data.train_limit=32", "precision=fp32", "tracker=none", "runs_dir=runs")
    launch(folder, "train", "head=weight_avg", *shared, "study=weight_avg", "data.truncation=head_tail")
    windows = ("data.truncation=windows", "data.max_windows=3", "max_length=32")
    launch(folder, "train", "head=attention", *shared, *windows, "study=attention")
    return {study.name: imdbcls.load_run(next(study.glob("*-s0-*"))) for study in (folder / "runs").iterdir()}


@pytest.fixture(scope="module")
def lstm(finished: Path) -> imdbcls.FinishedRun:
    run = imdbcls.load_run(finished)
    return replace(run, config=run.config.with_changes(precision="fp32"))


@pytest.mark.parametrize("text", [TEXT, LONG])
@pytest.mark.parametrize("head", ["lstm", "weight_avg", "attention"])
def test_logits_are_those_of_predict_and_scores_are_complete(
    head: str, text: str, runs: dict[str, imdbcls.FinishedRun], lstm: imdbcls.FinishedRun
) -> None:
    run = lstm if head == "lstm" else runs[head]
    run.plain_model  # noqa: B018 - load it first: loading a model may use float64 on the CPU
    with Float64OnCpuOnly() as watched:
        found = explain(run, text)
    assert watched.num_conversions >= 3
    predicted = run.predict([text])
    assert found.label == found.target == predicted.names[0]
    assert list(found.probabilities) == list(run.label_names)
    np.testing.assert_allclose(list(found.probabilities.values()), predicted.known_probabilities[0], atol=1e-5)
    fast = run._model
    with torch.inference_mode():
        logits_C = logits_of(fast.model.eval(), read(text, fast).batch, fast.hardware)[0]
    assert found.logit == pytest.approx(logits_C[run.label_names.index(found.label)].item(), abs=1e-4)

    no_words = found.baseline_probabilities
    assert (
        sum(no_words.values()) == pytest.approx(1) and max(no_words, key=no_words.__getitem__) == found.baseline_label
    )
    if len(no_words) == 2:  # two probabilities follow from the difference of the two logits
        other = explain(run, text, next(name for name in run.label_names if name != found.target))
        margin = (found.baseline_logit - other.baseline_logit) / run.temperature
        assert no_words[found.target] == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-5)

    difference = found.logit - found.baseline_logit
    assert found.completeness_error == pytest.approx(abs(sum(found.scores) - difference), abs=1e-9)
    assert found.completeness_error <= found.tolerance <= max(0.01 * abs(difference), 0.001)
    assert max(map(abs, found.scores)) > 0 and found.is_complete
    assert [found.text[start:end] for start, end in found.spans] == list(found.words)
    if head == "lstm":
        assert found.pooling is found.special_pooling is None
    else:
        assert found.pooling is not None and found.special_pooling is not None
        assert len(found.pooling) == len(found.words)
        assert sum(found.pooling) + found.special_pooling == pytest.approx(1, abs=1e-6)
        assert found.special_pooling > 0


def test_explanation_sets_the_flags_of_its_run(lstm: imdbcls.FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """`predict` of a run in bf16 may have allowed TF32 on CUDA. The model runs on the CPU here."""
    on_cuda = replace(lstm)
    vars(on_cuda)["plain_model"] = replace(lstm.plain_model, hardware=Hardware(torch.device("cuda"), "fp32"))
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert explain(on_cuda, TEXT).is_complete
    assert not torch.backends.cudnn.allow_tf32


def test_unread_words_are_known(runs: dict[str, imdbcls.FinishedRun], lstm: imdbcls.FinishedRun) -> None:
    numbered = " ".join(f"{number} hours" for number in range(100))
    for run, num_windows, num_parts in ((lstm, 1, 1), (runs["weight_avg"], 1, 1), (runs["attention"], 3, 2)):
        short, long = explain(run, "A quiet film."), explain(run, numbered)
        assert (short.unread, short.num_windows, short.num_tokens, short.num_read) == ((), 1, 4, 4)
        budget = run.config.max_length - 2
        assert (long.num_windows, long.num_tokens, long.num_read) == (num_windows, 200, num_windows * budget)
        assert len(long.unread) == num_parts
        assert sum(len(numbered[start:end].split()) for start, end in long.unread) == 200 - long.num_read
    tail = explain(runs["weight_avg"], numbered)  # head_tail keeps both ends
    assert tail.words[0] == "0" and tail.words[-2:] == ("99", "hours") and tail.unread[0][1] < len(numbered)


def test_other_class_has_its_own_scores(lstm: imdbcls.FinishedRun) -> None:
    negative, positive = (explain(lstm, TEXT, target=label) for label in lstm.label_names)
    assert (negative.target, positive.target) == lstm.label_names and negative.label == positive.label
    assert negative.scores != positive.scores and negative.probabilities == positive.probabilities


def test_mistakes(lstm: imdbcls.FinishedRun) -> None:
    with pytest.raises(imdbcls.UserError, match="good is not a class of this run: choose negative, positive"):
        explain(lstm, TEXT, target="good")
    for text in ("", " \n", "half a pair \ud800"):
        with pytest.raises(imdbcls.UserError, match="explain expects a text"):
            explain(lstm, text)


@pytest.mark.parametrize("head", [("scalar_mix",), ("last4", "head.num_layers=2")], ids=lambda head: head[0])
def test_head_that_reads_several_layers(head: tuple[str, ...], launch: Launch, tmp_path: Path) -> None:
    """The scores sum to the difference between the logits of the text and of the baseline."""
    settings = (*TINY, "epochs=1", "data.train_limit=32", "precision=fp32", "tracker=none", "runs_dir=runs")
    launch(tmp_path, "train", f"head={head[0]}", *head[1:], *settings, "study=layers")
    run = imdbcls.load_run(next((tmp_path / "runs" / "layers").glob("*-s0-*")))
    found = explain(run, TEXT)
    assert found.completeness_error <= found.tolerance
    assert sum(found.scores) == pytest.approx(found.logit - found.baseline_logit, abs=2 * found.tolerance)
    assert any(abs(score) > 1e-4 for score in found.scores) and found.pooling is None
