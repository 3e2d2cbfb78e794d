"""Pairs of texts: the tokenizer's own pair encoding, from a file to predictions."""

import csv
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import Launch

import imdbcls
from imdbcls import kernels
from imdbcls.config.overrides import compose
from imdbcls.data.answers import Item
from imdbcls.data.batch import Collator, pair_budgets
from imdbcls.data.documents import Documents
from imdbcls.data.files import read_files
from imdbcls.data.text_lines import pair_in
from imdbcls.data.tokens import pair_template, tokenize
from imdbcls.data.unlabeled import from_arguments, in_chunks
from imdbcls.errors import UserError
from imdbcls.explain import explain_disagreement, explain_texts, parse
from imdbcls.exports.source import require_one_row
from imdbcls.kernels.head_input import HeadInput
from imdbcls.models.backbone import tiny_backbone, word_tokenizer
from imdbcls.sections import build_tokenizer
from imdbcls.serving.runs import load_models

WORDS = ("the", "film", "is", "good", "and", "bad", "but", "not", "a", "man", "who", "plays", "in", "this", "story")


def pairs(number: int) -> list[tuple[str, str, str]]:
    generator = random.Random(0)
    draw = lambda: " ".join(generator.choices(WORDS, k=generator.randint(1, 30)))  # noqa: E731
    return [(draw(), draw(), ["no", "yes"][row % 2]) for row in range(number)]


def write(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *rows])
    return path


@pytest.mark.parametrize("backbone", ["tiny", "minilm"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pair_is_encoded_as_by_the_tokenizer(backbone: str, side: str, tmp_path: Path) -> None:
    """Ids, token types and truncation equal the results of transformers with `longest_first`."""
    tokenizer: Any = word_tokenizer() if backbone == "tiny" else build_tokenizer(compose([f"backbone={backbone}"]))
    rows = pairs(60)
    documents = Documents(
        [str(row) for row in range(60)],
        [first for first, _, _ in rows],
        np.zeros(60, dtype=np.int64),
        pairs=[second for _, second, _ in rows],
    )
    tokens = tokenize(documents, tokenizer, cache_dir=tmp_path)
    batch = Collator(tokens, documents.labels, 24, {"right": "head", "left": "tail"}[side]).collate(np.arange(60))
    tokenizer.truncation_side = side
    expected = tokenizer(
        list(documents.texts),
        list(documents.pairs or ()),
        truncation="longest_first",
        max_length=24,
        padding="max_length",
        return_tensors="pt",
    )
    assert torch.equal(batch.input_ids_BT, expected["input_ids"])
    assert torch.equal(batch.mask_BT, expected["attention_mask"].bool())
    assert (batch.token_types_BT is None) == ("token_type_ids" not in expected) == (backbone == "tiny")
    if batch.token_types_BT is not None:
        assert torch.equal(batch.token_types_BT, expected["token_type_ids"]) and batch.token_types_BT.max() == 1
        part = batch.split(7)[3]
        assert part.token_types_BT is not None and part.token_types_BT.shape == part.input_ids_BT.shape
    lengths = [len(ids) for ids in tokenizer(list(documents.texts), list(documents.pairs or ()))["input_ids"]]
    assert tokens.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("lengths", "budgets"),
    [((3, 4), (3, 4)), ((3, 40), (3, 8)), ((40, 3), (8, 3)), ((9, 9), (5, 6)), ((9, 8), (6, 5)), ((5, 6), (5, 6))],
)
def test_the_longer_text_is_cut_first(lengths: tuple[int, int], budgets: tuple[int, int]) -> None:
    assert pair_budgets(*lengths, 11) == budgets


def test_a_tokenizer_without_a_separator_is_refused() -> None:
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(UserError, match="puts no special token between the texts of a pair"):
        pair_template(tokenizer)


def test_equal_pairs_are_duplicates_and_the_hash_covers_both_texts(tmp_path: Path) -> None:
    rows = [("a", "b", "x"), ("a", "c", "y"), ("a b", "", "x"), ("a", "d", "y")]
    options: dict[str, Any] = {"pair_column": "hypothesis", "skip_empty": True}
    source = read_files(str(write(tmp_path / "a.csv", rows)), None, None, "premise", "label", None, None, **options)
    assert list(source.train.pairs or ()) == ["b", "c", "d"]
    assert "1 of 4 rows are skipped: 1 with no text in 'hypothesis'" in source.notes[-1]
    with pytest.raises(UserError, match=r"a\.csv, line 4: no text in 'hypothesis'"):
        read_files(str(tmp_path / "a.csv"), None, None, "premise", "label", None, None, pair_column="hypothesis")


def test_arguments_and_lines_are_pairs() -> None:
    (item,) = from_arguments(["first", "second"], reads_pairs=True).items
    assert item.document == ("first", "second") and item.number == 1
    with pytest.raises(UserError, match="has 3 texts"):
        from_arguments(["a", "b", "c"], reads_pairs=True)
    assert pair_in("a\tb", "") == ("a", "b")
    with pytest.raises(UserError, match="stdin, line 7: the run classifies pairs of texts"):
        pair_in("a b", "stdin, line 7")


def test_a_chunk_counts_the_characters_of_both_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.data.unlabeled.CHUNK_CHARACTERS", 100)
    items = (Item(number, "a", pair="b" * 60) for number in range(4))
    assert [len(chunk) for chunk in in_chunks(items)] == [2, 2]


def test_windows_are_refused_with_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", pairs(8))
    columns = [f"data.train={path}", "data.text_column=premise", "data.pair_column=hypothesis"]
    with pytest.raises(UserError, match=r"data\.pair_column and data\.truncation=windows cannot be combined"):
        compose(["backbone=tiny", "data=files", *columns, "data.truncation=windows"])
    with pytest.raises(UserError, match="no column 'claim'"):
        compose(["backbone=tiny", "data=files", *columns[:2], "data.pair_column=claim"])


@pytest.mark.slow
def test_a_run_on_pairs(launch: Launch, tmp_path: Path) -> None:
    rows = pairs(80)
    write(tmp_path / "a.csv", rows)
    columns = ("data=files", "data.train=a.csv", "data.text_column=premise", "data.pair_column=hypothesis")
    launch(tmp_path, "train", "backbone=tiny", *columns, "max_length=32", "epochs=1", "tracker=none", "study=p")
    (folder,) = (tmp_path / "runs" / "p").iterdir()
    write(tmp_path / "new.csv", [*rows[:5], ("only one", "", "no")])
    answers = launch(tmp_path, "predict", str(folder), "--file", "new.csv").stdout.splitlines()
    found = [json.loads(line)["probabilities"] for line in answers]
    assert found[5] is None
    run = imdbcls.load_run(folder)
    predicted = run.predict([row[:2] for row in rows[:5]])
    for probabilities, answer in zip(predicted.known_probabilities, found, strict=False):
        assert list(answer.values()) == pytest.approx(probabilities.tolist())
    swapped = run.predict([(second, first) for first, second, _ in rows[:5]])
    assert not np.allclose(swapped.known_probabilities, predicted.known_probabilities)
    assert (run.cut_tokens(predicted) == np.maximum(np.asarray(predicted.tokens) - 32, 0)).all()
    assert run.evaluate(tmp_path / "new.csv", skip_empty=True).documents == 5
    with pytest.raises(UserError, match="predict expects a list of non-empty pairs of strings"):
        run.predict(["one text"])
    with pytest.raises(UserError, match=r"a table \(dict\).*predict\(zip\(frame"):
        run.predict({"premise": ["a b"], "hypothesis": ["c d"]})
    for refuse in (lambda: require_one_row(run.config), lambda: load_models([folder])):
        with pytest.raises(UserError, match=r"data\.pair_column"):
            refuse()
    (tmp_path / "single.csv").write_text("premise,label\na man,no\n")
    for arguments in (["one text"], ["--file", str(tmp_path / "single.csv"), "--row", "1"]):
        with pytest.raises(UserError, match=r"classifies pairs of texts .*, which cannot be explained"):
            explain_texts(parse([str(folder), *arguments]), io.StringIO(), io.StringIO())
    with pytest.raises(UserError, match=r"classifies pairs of texts .*, which cannot be explained"):
        explain_disagreement(parse(["--disagreement", str(folder), str(shutil.copytree(folder, tmp_path / "copy"))]))


@pytest.mark.parametrize("all_layers", [False, True])
def test_the_fast_layers_read_the_token_types(all_layers: bool) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"pretrained": False, "dropout": None, "attention_dropout": 0.0, "fast": True}
    encoder = tiny_backbone(name="tiny", **settings).encoder.eval()
    ids_BT, mask_BT = torch.randint(4, 400, (3, 16)), torch.arange(16) < torch.tensor([[16], [9], [12]])
    types_BT = (torch.arange(16) >= 6).long().expand(3, 16) * mask_BT
    head_input = HeadInput("all" if all_layers else "last")
    with torch.inference_mode():
        fast = kernels.encode(encoder, ids_BT, mask_BT, token_types_BT=types_BT, head_input=head_input)
        untyped = kernels.encode(encoder, ids_BT, mask_BT, head_input=head_input)
        kernels.restore_library_forward(encoder)
        output = encoder(
            input_ids=ids_BT, attention_mask=mask_BT, token_type_ids=types_BT, output_hidden_states=all_layers
        )
    expected = torch.stack(output.hidden_states) if all_layers else output.last_hidden_state
    torch.testing.assert_close(fast[..., mask_BT, :], expected[..., mask_BT, :], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(fast[..., mask_BT, :], untyped[..., mask_BT, :], atol=1e-3)
