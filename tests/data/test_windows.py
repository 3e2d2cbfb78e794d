"""Test `data.truncation=windows`: windows cover each document and stay together, and their logits are averaged."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from support.backbones import load
from support.batches import BOS, EOS, make_tokens, same
from support.heads import MAKERS
from support.small_models import make_folder
from support.trainers import NO_DROPOUT, PLAIN_SGD, distance, make, train_epoch, weights

from imdbcls.data.batch import Batch
from imdbcls.data.batches import EvalBatches, TrainBatches
from imdbcls.data.windows import Windows, window_starts
from imdbcls.models.classifier import Classifier, average_windows

WINDOWS = Windows(overlap=0.25, max_windows=32)
LONG = np.random.default_rng(2).integers(3, 900, 203)


def make_eval(lengths: np.ndarray, truncation: str | Windows, batch_size: int = 8, max_length: int = 64) -> EvalBatches:
    labels = np.arange(len(lengths)) % 2
    return EvalBatches(
        make_tokens(lengths), labels, batch_size=batch_size, max_length=max_length, truncation=truncation
    )


def make_train(lengths: np.ndarray, truncation: str | Windows, max_length: int = 64) -> TrainBatches:
    labels = np.arange(len(lengths)) % 2
    tokens = make_tokens(lengths)
    return TrainBatches(
        tokens,
        labels,
        batch_size=16,
        max_length=max_length,
        order_seed=0,
        truncation=truncation,
        group_by_length=True,
    )


def windows_of(batch: Batch) -> dict[int, list[list[int]]]:
    """Map the row of each document in the split to its windows, without special tokens and padding."""
    documents = range(len(batch)) if batch.documents_W is None else batch.documents_W.tolist()
    found: dict[int, list[list[int]]] = {int(row): [] for row in batch.rows}
    for place, document in enumerate(documents):
        ids = batch.input_ids_BT[place][batch.mask_BT[place]].tolist()
        assert ids[0] == BOS and ids[-1] == EOS
        found[int(batch.rows[document])].append(ids[1:-1])
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("budget", [1, 6, 62, 510])
def test_windows_cover_the_document_with_the_fewest_windows(overlap: float, budget: int) -> None:
    lengths = np.arange(1, 700)
    counts, sizes = Windows(overlap, 10**6).plan(lengths, budget)
    shared = min(round(overlap * budget), budget - 1)
    for length, count, size in zip(lengths.tolist(), counts.tolist(), sizes.tolist(), strict=True):
        starts = window_starts(length, count, size)
        assert len(starts) == count and starts[0] == 0 and starts[-1] + size == length and size <= budget
        assert count == 1 or (count - 1) * budget - (count - 2) * shared < length, (
            "fewer windows would cover the document"
        )
        for one, other in pairwise(starts):
            assert shared <= one + size - other < size


def test_a_document_of_too_many_windows_gets_evenly_spaced_full_windows() -> None:
    counts, sizes = Windows(0.25, 4).plan(np.array([10, 62, 63, 300, 5000]), 62)
    assert counts.tolist() == [1, 1, 2, 4, 4] and sizes.tolist()[3:] == [62, 62]
    assert window_starts(5000, 4, 62) == [0, 1646, 3292, 4938]
    assert Windows(0.25, 1).plan(np.array([5000]), 62)[0].tolist() == [1] and window_starts(5000, 1, 62) == [0]


def test_every_token_of_every_document_is_in_a_batch() -> None:
    for batches in (make_eval(LONG, WINDOWS), make_train(LONG, WINDOWS).epoch(0)):
        found = {row: windows for batch in batches for row, windows in windows_of(batch).items()}
        assert sorted(found) == list(range(len(LONG)))
        for row, windows in found.items():
            size = len(windows[0])
            text = ((row + np.arange(LONG[row] - 2)) % 499).tolist()
            starts = window_starts(len(text), len(windows), size)
            assert windows == [text[start : start + size] for start in starts]
            assert starts[-1] + size == len(text)


def test_short_documents_give_the_same_batches_without_windows() -> None:
    lengths = np.minimum(LONG, 64)
    for one, other in (
        (make_eval(lengths, WINDOWS), make_eval(lengths, "head")),
        (make_train(lengths, WINDOWS).epoch(1), make_train(lengths, "head").epoch(1)),
    ):
        for batch, plain in zip(one, other, strict=True):
            assert same(batch, plain) and batch.documents_W is None


def test_evaluation_batches_count_windows_in_their_budget() -> None:
    lengths = np.concatenate([LONG % 300 + 3, [3000]])  # the last document has 65 windows, more than fit into a batch
    batches = list(make_eval(lengths, Windows(0.25, 100), batch_size=8))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(204))
    alone = [batch for batch in batches if batch.input_ids_BT.numel() > 8 * 64]
    assert [batch.rows.tolist() for batch in alone] == [[203]] and len(alone[0].mask_BT) == 65
    widths = [batch.input_ids_BT.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)


def test_padding_stays_low_and_a_resumed_epoch_continues_exactly() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(224), 0.75, 3203), 3, 3000).astype(np.int64)
    train = make_train(lengths, WINDOWS, max_length=128)
    whole = list(train.epoch(1))
    padded = sum(batch.input_ids_BT.numel() for batch in whole)
    assert 1 - sum(batch.num_tokens for batch in whole) / padded <= 0.05
    resumed = list(make_train(lengths, WINDOWS, max_length=128).epoch(1, start_step=150))
    assert all(same(one, other) for one, other in zip(whole[150:], resumed, strict=True))


def test_micro_batches_keep_documents_together_within_the_limit() -> None:
    for batch in make_train(LONG, WINDOWS).epoch(0):
        for size in (1, 5, 16):
            parts = batch.split(size)
            assert np.concatenate([part.rows for part in parts]).tolist() == batch.rows.tolist()
            assert all(len(part.mask_BT) <= size or len(part) == 1 for part in parts)
            assert sum(part.num_tokens for part in parts) == batch.num_tokens
            assert torch.equal(torch.cat([part.labels_B for part in parts]), batch.labels_B)
            found = {row: windows for part in parts for row, windows in windows_of(part).items()}
            assert found == windows_of(batch)


def test_average_of_windows_equals_a_hand_computed_case() -> None:
    """Windows of 3 and 1 tokens give (3 (4, 0) + 1 (0, 8)) / 4 = (3, 2). The second document has only one window."""
    logits_WC = torch.tensor([[4.0, 0.0], [0.0, 8.0], [0.1, 0.7]])
    mask_WT = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    averaged_BC = average_windows(logits_WC, mask_WT, torch.tensor([0, 0, 1]))
    assert averaged_BC.tolist() == [[3.0, 2.0], logits_WC[2].tolist()]


@pytest.mark.parametrize("name", MAKERS)
def test_every_head_averages_windows_without_padding(name: str, roberta: Path) -> None:
    """A document's logits equal the average over its windows, each computed separately and without padding."""
    torch.manual_seed(0)
    model = Classifier(load(roberta).encoder, MAKERS[name](64)).eval()
    (batch,) = make_roberta_batches(np.array([150, 64, 20, 100]))
    assert batch.documents_W is not None
    with torch.inference_mode():
        together_BC = model(batch.input_ids_BT, batch.mask_BT, batch.documents_W)
        assert together_BC.shape == (4, 3)
        for document in range(4):
            rows = torch.nonzero(batch.documents_W == document).flatten().tolist()
            lengths = [int(batch.mask_BT[row].sum()) for row in rows]
            alone = [
                model(batch.input_ids_BT[row : row + 1, :length], batch.mask_BT[row : row + 1, :length])[0]
                for row, length in zip(rows, lengths, strict=True)
            ]
            expected_C = sum(length * logits_C for length, logits_C in zip(lengths, alone, strict=True)) / sum(lengths)
            torch.testing.assert_close(together_BC[document], expected_C, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("roberta"), "roberta")


def make_roberta_batches(lengths: np.ndarray) -> list[Batch]:
    tokens = make_tokens(lengths)
    tokens = type(tokens)(tokens.ids % 390 + 5, tokens.offsets, (0,), (2,), 1)
    labels = np.zeros(len(lengths), dtype=np.int64)
    return list(EvalBatches(tokens, labels, batch_size=16, max_length=64, truncation=WINDOWS))


def test_accumulation_equals_the_larger_batch(tmp_path: Path) -> None:
    """The loss is the mean over documents, for any number of windows and any size of micro-batches."""
    overrides = (*NO_DROPOUT, *PLAIN_SGD, "data.truncation=windows", "max_length=32", "data.train_limit=40")
    whole = make(tmp_path / "whole", *overrides, "trainer.micro_batch_size=16")
    parts = make(tmp_path / "parts", *overrides, "trainer.micro_batch_size=3")
    before = weights(whole.model)
    batch = next(whole.batches.train.epoch(0))
    assert len(batch.mask_BT) > 2 * len(batch), "the sample's documents have more than 32 tokens"
    logits_BC = whole.model.train()(batch.input_ids_BT, batch.mask_BT, batch.documents_W)
    expected = torch.nn.functional.cross_entropy(logits_BC, batch.labels_B).item()
    losses = train_epoch(whole)
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert losses == pytest.approx(train_epoch(parts), abs=1e-5)
    assert distance(before, weights(whole.model)) > 1e-2
    assert distance(weights(whole.model), weights(parts.model)) < 1e-5
