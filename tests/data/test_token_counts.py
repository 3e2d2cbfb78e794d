"""Test the counts of lost and unknown tokens, and the warnings about large losses and one-class models."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.api import TINY
from support.small_models import make_folder, make_tokenizer
from support.tables import write

import imdbcls
from imdbcls.build import build_data_card
from imdbcls.data.card import card_tables, card_text
from imdbcls.data.documents import Documents
from imdbcls.data.token_counts import TokenCounts, count_tokens, losses, sum_of
from imdbcls.data.tokens import Tokens, tokenize
from imdbcls.data.windows import Windows
from imdbcls.models.metrics import accuracy_warning

INVISIBLE = "\u200b\u2060"  # BERT's tokenizer drops them
FOREIGN = "ภาษา 中文 한국어"  # unknown to an English vocabulary


def counts_of(texts: list[str], family: str, cache: Path, max_length: int = 64) -> TokenCounts:
    documents = Documents([str(row) for row in range(len(texts))], texts, np.zeros(len(texts), dtype=np.int64))
    tokenizer = make_tokenizer(family)
    tokens = tokenize(documents, tokenizer, cache_dir=cache)
    return count_tokens(tokens, tokenizer, max_length, "head")


def test_wordpiece_counts_dropped_and_unknown_tokens(tmp_path: Path) -> None:
    found = counts_of(["a good film", INVISIBLE, FOREIGN, f"the film {FOREIGN}", "a"], "bert", tmp_path)
    assert (found.documents, found.shortest, found.no_tokens, found.wholly_unknown) == (5, 0, 1, 1)
    assert found.mostly_unknown == 2 and 0 < found.unknown_tokens < found.tokens
    assert (found.truncated, found.cut_tokens) == (0, 0)


def test_sentencepiece_counts_unknown_tokens(tmp_path: Path) -> None:
    found = counts_of(["a good film", FOREIGN, "the end"], "deberta-v2", tmp_path)
    assert found.mostly_unknown == 1 and found.unknown_tokens >= 3


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_a_byte_level_tokenizer_has_no_unknown_tokens(family: str, tmp_path: Path) -> None:
    found = counts_of(["a good film", INVISIBLE, FOREIGN], family, tmp_path)
    assert (found.unknown_tokens, found.wholly_unknown, found.mostly_unknown, found.no_tokens) == (0, 0, 0, 0)


def tokens_of(*documents: list[int]) -> Tokens:
    offsets = np.cumsum([0, *(len(document) for document in documents)])
    return Tokens(
        np.array([token for document in documents for token in document], dtype=np.uint16),
        offsets,
        (1,),
        (2,),
        pad_id=0,
    )


class UnknownIs7:
    unk_token_id = 7


@pytest.mark.parametrize(
    ("truncation", "truncated", "cut"),
    [("head", 2, 10), ("tail", 2, 10), (Windows(0.25, 2), 1, 1), (Windows(0, 9), 0, 0)],
)
def test_truncation_is_counted_in_documents_and_tokens(truncation: Any, truncated: int, cut: int) -> None:
    """With max_length=6 and two special tokens, a row holds 4 tokens of a text. Two windows hold 8 of 9 tokens."""
    tokens = tokens_of([5] * 9, [5] * 9 if truncated == 2 else [5] * 4, [5] * 4, [5])
    found = count_tokens(tokens, UnknownIs7, 6, truncation)
    assert (found.truncated, found.cut_tokens, found.shortest) == (truncated, cut, 1)


def test_unknown_tokens_are_counted_in_the_right_documents_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.data.token_counts.CHUNK", 3)
    found = count_tokens(tokens_of([7, 7], [], [5, 7, 5], [7, 7, 7], [5], [5, 7]), UnknownIs7, 64, "head")
    assert (found.unknown_tokens, found.wholly_unknown, found.mostly_unknown, found.no_tokens) == (7, 2, 3, 1)


def test_counts_of_splits_add_up() -> None:
    parts = [count_tokens(tokens_of(*split), UnknownIs7, 4, "head") for split in ([[7], [5, 5, 5]], [[], [5, 7]])]
    assert sum_of(parts) == count_tokens(tokens_of([7], [5, 5, 5], [], [5, 7]), UnknownIs7, 4, "head")


QUIET = TokenCounts(1000, 100_000, 5, 0, 100, 0, 5, 136, 9_000)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"no_tokens": 1}, "1 of 1,000 documents have no tokens after"),
        ({"unknown_tokens": 20_000}, "20% of all tokens are unknown"),
        ({"mostly_unknown": 30, "wholly_unknown": 20}, "30 of 1,000 documents consist mostly of unknown tokens, 20 of"),
        ({"truncated": 980}, "98% of the documents are not read completely with max_length=64; 9% of all tokens"),
        ({"cut_tokens": 40_000}, "14% of the documents are not read completely with max_length=64; 40% of all tokens"),
    ],
)
def test_only_large_losses_are_reported(change: dict[str, int], sentence: str | None) -> None:
    found = list(losses(TokenCounts(**vars(QUIET) | change), 64, "head"))
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]


@pytest.mark.parametrize(
    ("truncation", "choices"),
    [
        ("tail", {"windows", "head_tail"}),
        ("head_tail", {"windows"}),
        ("windows", set()),
    ],
)
def test_advice_for_truncated_documents_lists_other_truncations(truncation: str, choices: set[str]) -> None:
    (advice,) = losses(TokenCounts(**vars(QUIET) | {"truncated": 980}), 64, truncation)
    assert set(re.findall(r"data\.truncation=(\w+)", advice)) == choices
    assert ("data.max_windows" in advice) == (truncation == "windows")


def test_the_card_the_run_and_predict_report_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of four texts is invisible, and one is unknown to the tokenizer."""
    kinds = [("a warm film", "pos"), (INVISIBLE, "neg"), ("a cold film", "neg"), (FOREIGN, "pos")]
    more = {INVISIBLE: INVISIBLE, FOREIGN: " 文"}
    texts = [(text + more.get(text, " very") * round_, label) for round_ in range(12) for text, label in kinds]
    rows = [(text, label, f"author {row}") for row, (text, label) in enumerate(texts)]
    data = write(tmp_path / "train.csv", rows)
    backbone = ["backbone=bert-base", f"backbone.path={make_folder(tmp_path / 'model', 'bert')}"]
    small = [choice for choice in TINY if not choice.startswith(("data", "backbone"))]
    config = imdbcls.compose(*backbone, *small, "data=files", f"data.train={data}", f"runs_dir={tmp_path}")

    card = build_data_card(config)
    lost = sum_of(split.counts for split in card.splits.values())
    assert (lost.documents, lost.no_tokens, lost.wholly_unknown, lost.shortest) == (48, 12, 12, 0)
    text = card_text(card)
    text = " ".join(text.split())
    assert "12 of 48 documents have no tokens after" in text and "documents without a token" in text
    rows_of_table = {str(row[0]): row[1:] for row in card_tables(card)["lengths"][1]}
    assert rows_of_table["shortest"][0] == "2", "an empty document has two special tokens"
    assert sum(int(str(cell)) for cell in rows_of_table["documents without a token"]) == 12

    run = imdbcls.run(config)
    logged = capsys.readouterr().err
    assert "warning: 12 of 48 documents have no tokens after" in logged and "12 of them entirely" in logged
    counts = run.result["token_counts"]
    assert {name: counts["test"][name] for name in ("no_tokens", "documents")} == {
        "no_tokens": card.splits["test"].counts.no_tokens,
        "documents": card.splits["test"].num_documents,
    }
    _, found = run.predict_with_counts(["a film", INVISIBLE, FOREIGN])
    assert (found.no_tokens, found.wholly_unknown) == (1, 1)


@pytest.mark.parametrize(
    ("confusion", "sentence"),
    [
        ([[40, 10], [5, 45]], None),
        ([[95, 0], [5, 0]], "the model predicts the class common for all 100 documents; its accuracy of 95.00% is"),
        ([[0, 1], [0, 0]], "the model predicts the class rare for the 1 document; its accuracy of 0.00% is"),
        ([[0, 95], [0, 5]], "the model predicts the class rare for all 100 documents; its accuracy of 5.00% is"),
        (
            [[94, 1], [4, 1]],
            "the accuracy of 95.00% is not higher than 95.00%, the share of the most common class, common",
        ),
        ([[95, 0], [4, 1]], None),
    ],
)
def test_an_accuracy_no_better_than_one_class_is_reported(confusion: list[list[int]], sentence: str | None) -> None:
    found = accuracy_warning(confusion, ["common", "rare"])
    assert found is None if sentence is None else found is not None and sentence in found


def test_a_run_that_predicts_one_class_logs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nineteen of twenty documents have the same class."""
    rows = [(f"a film of {row} scenes", "rare" if row % 20 == 0 else "common", f"author {row}") for row in range(120)]
    data = write(tmp_path / "train.csv", rows)
    small = [choice for choice in TINY if not choice.startswith("data")]
    config = imdbcls.compose(*small, "data=files", f"data.train={data}", f"runs_dir={tmp_path}", "lr=5e-3", "epochs=3")
    run = imdbcls.run(config)
    logged = capsys.readouterr().err
    assert set(run.predictions().names) == {"common"}
    assert "test: the model predicts the class common for all" in logged
    from imdbcls.reevaluation import evaluate

    evaluate(run.folder, "test")
    assert "warning: test: the model predicts the class common for all" in capsys.readouterr().err
