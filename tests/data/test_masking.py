"""Masked tokens: their shares, whole words, and that they depend only on the seed, the epoch and the document."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.batches import BOS, EOS, PAD, make_tokens
from support.small_models import make_folder
from support.tokens import make_tokenizer
from transformers import AutoTokenizer

from imdbcls.data.batch import Batch
from imdbcls.data.batches import EvalBatches, TrainBatches
from imdbcls.data.masking import Masking, masking_of, word_beginnings
from imdbcls.data.windows import Windows
from imdbcls.errors import UserError

MASK, NUM_WORDS = 503, 499
LENGTHS = np.random.default_rng(0).integers(3, 90, 300)


def make_masking(**changes: object) -> Masking:
    settings = {
        "probability": 0.15,
        "begins_word_V": None,
        "mask_id": MASK,
        "random_ids": np.arange(NUM_WORDS),
        "seed": 0,
        "num_prefix": 1,
        "num_suffix": 1,
    }
    return Masking(**{**settings, **changes})  # type: ignore[arg-type]


def make_batches(masking: Masking | None, **changes: object) -> TrainBatches:
    options = {"batch_size": 16, "max_length": 64, "order_seed": 0, "group_by_length": True, "truncation": "head"}
    batches = TrainBatches(make_tokens(LENGTHS), np.zeros(len(LENGTHS), dtype=np.int64), **{**options, **changes})
    if masking is not None:
        batches.mask_with(masking)
    return batches


def masks_of(batches: list[Batch]) -> dict[int, list[tuple[int, int, int]]]:
    """Map each document to the column, the label and the new id of each of its masked tokens."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for batch in batches:
        assert batch.masked is not None
        for row, column, label in zip(*(each.tolist() for each in vars(batch.masked).values()), strict=True):
            new_id = int(batch.input_ids_BT[row, column])
            found.setdefault(int(batch.rows[row]), []).append((column, label, new_id))
    return found


def test_masks_depend_only_on_seed_epoch_and_document() -> None:
    first = masks_of(list(make_batches(make_masking()).epoch(0)))
    assert first.keys() == set(range(len(LENGTHS)))  # every document has a masked token
    assert masks_of(list(make_batches(make_masking(), order_seed=9, batch_size=7).epoch(0))) == first
    others = [make_batches(make_masking()).epoch(1), make_batches(make_masking(seed=1)).epoch(0)]
    for other in map(masks_of, map(list, others)):
        assert sum(other[row] == first[row] for row in first) < len(first) / 10
    batches = make_batches(make_masking())
    resumed = masks_of(list(batches.epoch(1, start_step=5)))
    complete = masks_of(list(batches.epoch(1)))
    assert 0 < len(resumed) < len(complete) and resumed == {row: complete[row] for row in resumed}


def test_validation_masks_are_fixed_and_differ_from_those_of_training() -> None:
    batches = EvalBatches(
        make_tokens(LENGTHS), np.zeros(len(LENGTHS), dtype=np.int64), batch_size=8, max_length=64, truncation="head"
    )
    batches.mask_with(make_masking())
    fixed = masks_of(list(batches))
    assert masks_of(list(batches)) == fixed
    assert fixed != masks_of(list(make_batches(make_masking()).epoch(0)))


def test_shares_are_those_of_bert_and_other_tokens_stay() -> None:
    plain, masked = list(make_batches(None).epoch(0)), list(make_batches(make_masking()).epoch(0))
    chosen, became_mask, kept, num_tokens = 0, 0, 0, 0
    for before, after in zip(plain, masked, strict=True):
        assert after.masked is not None and np.array_equal(before.rows, after.rows)
        at = after.masked.rows_M, after.masked.columns_M
        labels, new_ids = before.input_ids_BT[at], after.input_ids_BT[at]
        assert torch.equal(after.masked.labels_M, labels)
        assert not np.isin(labels, (BOS, EOS, PAD)).any() and not np.isin(new_ids, (BOS, EOS, PAD)).any()
        restored = after.input_ids_BT.clone()
        restored[at] = labels
        assert torch.equal(restored, before.input_ids_BT) and torch.equal(after.mask_BT, before.mask_BT)
        chosen += len(labels)
        became_mask += int((new_ids == MASK).sum())
        kept += int((new_ids == labels).sum())
        num_tokens += before.num_tokens - 2 * len(before)
    assert chosen / num_tokens == pytest.approx(0.15, abs=0.015)
    assert became_mask / chosen == pytest.approx(0.8, abs=0.04)
    assert kept / chosen == pytest.approx(0.1, abs=0.03)


def test_all_tokens_of_a_word_are_masked_together() -> None:
    begins_word_V = np.arange(504) % 3 == 0  # a word has three tokens; document i has the tokens i, i + 1, ...
    batches = list(make_batches(make_masking(begins_word_V=begins_word_V)).epoch(0))
    num_masked = num_tokens = 0
    for batch in batches:
        assert batch.masked is not None
        for row, document in enumerate(batch.rows):
            labels = batch.masked.labels_M[batch.masked.rows_M == row].tolist()
            length = min(int(LENGTHS[document]), 64) - 2
            ids = (document + np.arange(length)) % NUM_WORDS
            word_T = np.cumsum(begins_word_V[ids])
            words = {int(word) for word, token in zip(word_T, ids, strict=True) if token in labels}
            assert labels == [int(token) for word, token in zip(word_T, ids, strict=True) if word in words]
            num_masked, num_tokens = num_masked + len(labels), num_tokens + length
    assert num_masked / num_tokens == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("truncation", ("head", Windows(overlap=0.25, max_windows=4)))
def test_micro_batches_contain_the_same_masked_tokens(truncation: str | Windows) -> None:
    for batch in make_batches(make_masking(), truncation=truncation, max_length=32).epoch(0):
        assert batch.masked is not None
        parts = batch.split(5)
        masked = [part.masked for part in parts if part.masked is not None]
        assert len(masked) == len(parts) and batch.step_targets == sum(map(len, masked))
        assert torch.equal(batch.targets, torch.cat([part.targets for part in parts]))
        flat = torch.cat([part.input_ids_BT.flatten()[part.inputs["masked_indices_M"]] for part in parts])
        assert torch.equal(batch.input_ids_BT.flatten()[batch.inputs["masked_indices_M"]], flat)


@pytest.mark.parametrize(
    ("family", "text", "words"),
    (
        ("bert", "Extraordinarily moving, isn't it?", 7),  # moving | , | isn | ' | t | it | ?, without the first word
        ("roberta", " Extraordinarily moving, isn't it?", 3),
        ("deberta-v2", "Extraordinarily moving, isn't it?", 3),
    ),
)
def test_words_begin_where_the_tokenizer_marks_them(family: str, text: str, words: int, tmp_path: Path) -> None:
    """A word may have many tokens, because the vocabularies are small. Only WordPiece separates punctuation."""
    tokenizer = AutoTokenizer.from_pretrained(make_folder(tmp_path, family))
    begins_word_V = word_beginnings(tokenizer, family)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert begins_word_V is not None and int(begins_word_V[ids][1:].sum()) == words < len(ids)


def test_a_tokenizer_without_mask_token_is_refused_by_name() -> None:
    settings = {"probability": 0.15, "seed": 0, "num_prefix": 1, "num_suffix": 1}
    with pytest.raises(UserError, match="backbone=mine cannot be pretrained: its tokenizer has no mask token"):
        masking_of(make_tokenizer(), name="mine", whole_words=True, **settings)
    masking = masking_of(make_tokenizer(mask_token="w7"), name="mine", whole_words=True, **settings)
    assert masking.begins_word_V is None  # every token of a word-level tokenizer is a word
    assert masking.mask_id not in masking.random_ids and 0 not in masking.random_ids
