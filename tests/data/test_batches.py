"""Test batches: exact resumption, every document once per epoch, little padding, and truncation."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from support.batches import BOS, EOS, PAD, make_tokens, same
from torch import Tensor, nn

from imdbcls.data.batch import TRUNCATIONS
from imdbcls.data.batches import EVAL_TOKENS, EvalBatches, TrainBatches
from imdbcls.models.inference import measure_latency
from imdbcls.runtime.device import Hardware


def make_train(
    num_documents: int = 3203,
    max_length: int = 512,
    order_seed: int = 0,
    batch_size: int = 16,
    group_by_length: bool = True,
) -> TrainBatches:
    # A log-normal distribution like the lengths of IMDB's reviews: median 224 tokens, mean 297, 13.5 % over 512.
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(224), 0.75, num_documents), 3, 3000).astype(np.int64)
    return TrainBatches(
        make_tokens(lengths),
        np.arange(num_documents) % 2,
        batch_size=batch_size,
        max_length=max_length,
        order_seed=order_seed,
        group_by_length=group_by_length,
        truncation="head",
    )


@pytest.mark.parametrize("num_documents", [1, 5, 16, 40, 3203])
def test_an_epoch_has_every_document_once(num_documents: int) -> None:
    batches = make_train(num_documents)
    for epoch in range(2):
        found = list(batches.epoch(epoch))
        assert len(found) == batches.steps_per_epoch == -(-num_documents // 16)
        assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(num_documents))
        sizes = sorted(len(batch) for batch in found)
        assert sizes[1:] == [16] * (len(sizes) - 1) and sum(sizes) == num_documents


def test_a_resumed_epoch_continues_exactly() -> None:
    whole = list(make_train().epoch(1))
    for start in (0, 1, 77, len(whole) - 1, len(whole)):
        resumed = list(make_train().epoch(1, start_step=start))
        assert len(resumed) == len(whole) - start
        assert all(same(one, other) for one, other in zip(whole[start:], resumed, strict=True))


def test_epochs_and_seeds_differ() -> None:
    first = make_train().plan(0)
    assert any(not np.array_equal(one, other) for one, other in zip(first, make_train().plan(1), strict=True))
    others = make_train(order_seed=1).plan(0)
    assert any(not np.array_equal(one, other) for one, other in zip(first, others, strict=True))


def test_documents_share_batches_with_others_in_each_epoch() -> None:
    for num_documents in (96, 3200):
        batches = make_train(num_documents)
        pairs = [
            {(one, other) for rows in batches.plan(epoch) for one in rows for other in rows if one < other}
            for epoch in range(2)
        ]
        assert len(pairs[0] & pairs[1]) < 0.6 * len(pairs[0]), num_documents


@pytest.mark.parametrize("max_length", [256, 512])
def test_padding_is_at_most_three_percent(max_length: int) -> None:
    batches = list(make_train(max_length=max_length).epoch(0))
    padded = sum(batch.input_ids_BT.numel() for batch in batches)
    real = sum(batch.num_tokens for batch in batches)
    assert 1 - real / padded <= 0.03


def test_ungrouped_batches_have_documents_of_any_length() -> None:
    batches = make_train(group_by_length=False)
    plan = batches.plan(0)
    assert sorted(np.concatenate(plan)) == list(range(3203))
    spreads = [np.std(batches._collator.lengths[rows]) for rows in plan]
    grouped = [np.std(batches._collator.lengths[rows]) for rows in make_train().plan(0)]
    assert np.median(spreads) > 20 * np.median(grouped)


def test_rows_contain_only_the_document_and_padding() -> None:
    batches = make_train(100, max_length=100)
    tokens = batches._collator.tokens
    for batch in batches.epoch(0):
        batch_size, width = batch.input_ids_BT.shape
        assert batch.input_ids_BT.dtype == torch.int64 and batch.mask_BT.dtype == torch.bool
        assert batch.labels_B.tolist() == (batch.rows % 2).tolist()
        assert width == 100 or width % 8 == 0
        assert batch.num_tokens == int(batch.mask_BT.sum())
        for place in range(batch_size):
            row = batch.rows[place]
            ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]][:98].tolist()
            expected = [BOS, *ids, EOS]
            assert batch.input_ids_BT[place].tolist() == expected + [PAD] * (width - len(expected))
            assert batch.mask_BT[place].tolist() == [True] * len(expected) + [False] * (width - len(expected))


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_truncation_keeps_the_requested_part(truncation: str) -> None:
    lengths = np.array([2000, 512, 511, 4])
    tokens = make_tokens(lengths)
    batches = EvalBatches(tokens, np.zeros(4, dtype=np.int64), batch_size=4, max_length=512, truncation=truncation)
    rows = {int(row): batch.input_ids_BT[place] for batch in batches for place, row in enumerate(batch.rows)}
    document = (np.arange(1998) % 499).tolist()
    kept = {
        "head": document[:510],
        "tail": document[-510:],
        "head_tail": document[:128] + document[-382:],
    }[truncation]
    assert rows[0].tolist() == [BOS, *kept, EOS]
    assert rows[1].tolist() == [BOS, *((1 + np.arange(510)) % 499).tolist(), EOS]
    assert rows[3][:4].tolist() == [BOS, 3, 4, EOS]


def test_micro_batches_add_up_to_the_batch() -> None:
    for batch in make_train(70, max_length=100).epoch(0):
        for size in (1, 5, 16):
            parts = batch.split(size)
            assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1) and len(parts[-1]) <= size
            assert np.concatenate([part.rows for part in parts]).tolist() == batch.rows.tolist()
            assert sum(part.num_tokens for part in parts) == batch.num_tokens
            start = 0
            for part in parts:
                width = part.input_ids_BT.shape[1]
                longest = int(part.mask_BT.sum(dim=1).max())
                assert longest <= width < longest + 8
                assert torch.equal(part.input_ids_BT, batch.input_ids_BT[start : start + len(part), :width])
                assert torch.equal(part.labels_B, batch.labels_B[start : start + len(part)])
                start += len(part)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_only_contiguous_pinned_tensors_are_copied_without_blocking(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[Tensor] = []
    copies = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor))
        return pinned[-1]

    def copy(tensor: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        is_pinned = any(tensor is each for each in pinned)
        copies.append((is_pinned, non_blocking, is_pinned and tensor.is_contiguous()))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", copy)
    for micro_batch in next(make_train(100).epoch(0)).split(4):
        assert same(micro_batch.to(torch.device(device)), micro_batch)
    assert len(copies) >= 4 * 4 and set(copies) == {(device == "cuda",) * 3}


def test_evaluation_has_every_document_once_longest_first() -> None:
    lengths = np.random.default_rng(1).integers(3, 900, 1001)
    labels = np.arange(1001) % 2
    batches = EvalBatches(make_tokens(lengths), labels, batch_size=8, max_length=512, truncation="head")
    found = list(batches)
    assert len(found) == len(batches)
    assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(1001))
    widths = [batch.input_ids_BT.shape[1] for batch in found]
    assert widths == sorted(widths, reverse=True) and widths[0] == 512
    assert all(batch.input_ids_BT.numel() <= 8 * 512 for batch in found)
    assert max(len(batch) for batch in found) > 8
    assert all(same(one, other) for one, other in zip(found, batches, strict=True))


def test_latency_excludes_one_warmup_pass_per_length() -> None:
    lengths = np.array([30, 30, 31, 90, 30, 90, 12])
    batches = EvalBatches(make_tokens(lengths), np.arange(7) % 2, batch_size=8, max_length=64, truncation="head")
    seen: list[int] = []
    clock = iter(range(1000))

    class Counting(nn.Module):
        def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, **_: Any) -> Tensor:
            assert len(input_ids_BT) == 1
            seen.append(int(mask_BT.sum()))
            return torch.zeros(1, 2)

    with mock.patch("time.perf_counter", lambda: next(clock) ** 2):  # pass n, counted from 0, takes 4n + 1 seconds
        found = measure_latency(Counting(), batches, Hardware(torch.device("cpu"), "fp32"), 7)
    assert seen == [64, 64, 64, 31, 31, 30, 30, 30, 30, 12, 12]
    timed = [4 * place + 1 for place in (1, 2, 4, 6, 7, 8, 10)]
    assert found == {"p50": 1000 * np.percentile(timed, 50), "p95": 1000 * np.percentile(timed, 95)}


def test_default_evaluation_batches_have_a_bounded_number_of_tokens() -> None:
    lengths = np.random.default_rng(1).integers(3, 900, 1001)
    labels = np.arange(1001) % 2
    for max_length in (64, 512):
        batches = list(
            EvalBatches(make_tokens(lengths), labels, batch_size=None, max_length=max_length, truncation="head")
        )
        assert EVAL_TOKENS / 2 < batches[0].input_ids_BT.numel() <= EVAL_TOKENS
        assert all(batch.input_ids_BT.numel() <= EVAL_TOKENS for batch in batches)


def test_a_misspelt_truncation_and_a_short_max_length_are_refused() -> None:
    tokens = make_tokens(np.array([5, 6]))
    with pytest.raises(ValueError, match="'heads' is not one of head, tail, head_tail"):
        EvalBatches(tokens, np.zeros(2, dtype=np.int64), batch_size=2, max_length=8, truncation="heads")
    with pytest.raises(ValueError, match="leaves no room"):
        EvalBatches(tokens, np.zeros(2, dtype=np.int64), batch_size=2, max_length=2, truncation="head")
