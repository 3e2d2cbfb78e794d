"""Test that the token cache is correct and shared, and that kills and concurrent builds do not damage it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import small_models
from support.limits import HANG_SECONDS
from support.runs import ROOT
from support.tokens import make_documents, make_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import imdbcls.data.tokens
from imdbcls.data.documents import Documents
from imdbcls.data.pieces import BATCH, MAX_PIECES, PIECE, batches_of, can_split, pieces_of
from imdbcls.data.tokens import plain_tokenizer, tokenize, tokenize_in_memory
from imdbcls.errors import UserError


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir())


def test_tokens_equal_the_tokenizers_output(tmp_path: Path) -> None:
    tokenizer, documents = make_tokenizer(), make_documents()
    # Earlier settings of the tokenizer must not affect the stored tokens.
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    for _ in range(2):
        tokens = tokenize(documents, tokenizer, cache_dir=tmp_path)
        assert len(tokens) == 50 and tokens.ids.dtype == np.uint16 and tokens.pad_id == 0
        assert isinstance(tokens.ids, np.memmap)
        for row, text in enumerate(documents.texts):
            ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
            expected = make_tokenizer()(text)["input_ids"]
            assert [*tokens.prefix, *ids, *tokens.suffix] == expected
            assert tokens.lengths[row] == len(expected)
    assert len(entries(tmp_path)) == 1


def test_texts_and_tokenizer_determine_the_entry(tmp_path: Path) -> None:
    documents, tokenizer = make_documents(), make_tokenizer()
    tokenize(documents, tokenizer, cache_dir=tmp_path)
    tokenize(documents.take(range(49)), tokenizer, cache_dir=tmp_path)
    tokenize(documents.take([1, 0, *range(2, 50)]), tokenizer, cache_dir=tmp_path)
    tokenizer.add_tokens(["w1w2"])
    tokenize(documents, tokenizer, cache_dir=tmp_path)
    assert len(entries(tmp_path)) == 4


def test_documents_without_tokens_are_stored(tmp_path: Path) -> None:
    documents = Documents(["0", "1"], [" ", "\n"], np.array([0, 1]))
    for _ in range(2):
        tokens = tokenize(documents, make_tokenizer(), cache_dir=tmp_path)
        assert tokens.lengths.tolist() == [2, 2]


@pytest.mark.parametrize("texts", [["A film.", "", "Two hours. " * 40_000, "Good."], [""], []])
def test_tokens_in_memory_equal_the_cached_ones(texts: list[str], tmp_path: Path) -> None:
    """The third text of the first case is tokenized in several pieces."""
    documents = Documents([str(row) for row in range(len(texts))], texts, np.zeros(len(texts), dtype=np.int64))
    tokenizer = make_tokenizer()
    cached = tokenize(documents, tokenizer, cache_dir=tmp_path)
    in_memory = tokenize_in_memory(texts, plain_tokenizer(tokenizer))
    assert in_memory.ids.dtype == cached.ids.dtype and np.array_equal(in_memory.ids, cached.ids)
    assert np.array_equal(in_memory.offsets, cached.offsets)
    assert (in_memory.prefix, in_memory.suffix, in_memory.pad_id) == (cached.prefix, cached.suffix, cached.pad_id)


def test_an_existing_entry_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, tokenizer = make_documents(), make_tokenizer()
    first = tokenize(documents, tokenizer, cache_dir=tmp_path)
    monkeypatch.setattr(imdbcls.data.tokens, "_build", None)
    second = tokenize(documents, tokenizer, cache_dir=tmp_path)
    assert np.array_equal(first.ids, second.ids) and np.array_equal(first.offsets, second.offsets)


@pytest.mark.parametrize("file", ["ids.bin", "offsets.bin", "entry.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_logged_and_built_again(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, tokenizer = make_documents(), make_tokenizer()
    first = tokenize(documents, tokenizer, cache_dir=tmp_path)
    expected = first.ids.tolist()
    path = entries(tmp_path)[0] / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x15
    path.unlink()
    if damage != "remove":
        path.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    again = tokenize(documents, tokenizer, cache_dir=tmp_path)
    assert again.ids.tolist() == expected
    # A flipped byte may leave entry.json valid, but the checksums reveal it.
    assert "is damaged" in capsys.readouterr().err
    assert len(entries(tmp_path)) == 1


def test_an_unusable_cache_folder_or_tokenizer_raises_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*data.cache_dir or IMDBCLS_CACHE"):
        tokenize(make_documents(), make_tokenizer(), cache_dir=tmp_path / "file")
    with pytest.raises(UserError, match="no padding token"):
        tokenize(make_documents(), make_tokenizer(pad_token=None), cache_dir=tmp_path)


def test_the_default_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("IMDBCLS_CACHE", raising=False)
    tokenize(make_documents(), make_tokenizer(), cache_dir=None)
    assert entries(tmp_path / "xdg" / "imdbcls")
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "own"))
    tokenize(make_documents(), make_tokenizer(), cache_dir=None)
    assert entries(tmp_path / "own")


BUILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "tests")
import imdbcls.data.tokens as tokens
from support.tokens import make_documents, make_tokenizer
documents = make_documents(3000)
rename = os.rename
def slow(source, target):
    print("built", flush=True)
    built = Path(sys.argv[1] + "-built")
    built.mkdir(exist_ok=True)
    (built / str(os.getpid())).touch()
    while len(list(built.iterdir())) < int(sys.argv[2]):
        time.sleep(0.01)
    rename(source, target)
os.rename = slow
tokens.tokenize(documents, make_tokenizer(), cache_dir=sys.argv[1])
print("done", flush=True)
pid = os.fork()
if pid == 0:
    tokens.tokenize(make_documents(2000), make_tokenizer(), cache_dir=sys.argv[1] + "/child")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def start_build(cache: Path, num_builders: int) -> subprocess.Popen[str]:
    """Start a process that builds a cache entry. It renames the entry after `num_builders` processes have built one."""
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache), str(num_builders)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_build_one_entry_and_may_fork_afterwards(tmp_path: Path) -> None:
    builders = [start_build(tmp_path / "cache", num_builders=2) for _ in range(2)]
    for builder in builders:
        # A fork that hangs in the tokenizer's threads would reach the timeout.
        out, err = builder.communicate(timeout=HANG_SECONDS)
        assert builder.returncode == 0, err
        assert out.splitlines()[:2] == ["built", "done"]  # both built the entry, because neither found an entry
        assert "TOKENIZERS_PARALLELISM" not in err
    assert len(entries(tmp_path / "cache")) == 1


def test_a_killed_build_leaves_no_usable_entry(tmp_path: Path) -> None:
    builder = start_build(tmp_path, num_builders=2)
    assert builder.stdout is not None and builder.stdout.readline() == "built\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=HANG_SECONDS)
    (left,) = entries(tmp_path)
    assert left.name.startswith(".building-")

    documents = make_documents(3000)
    tokens = tokenize(documents, make_tokenizer(), cache_dir=tmp_path)
    assert len(tokens) == 3000
    # A recent folder may belong to a live process. A build removes folders that are more than a day old.
    assert left.exists()
    old = time.time() - imdbcls.runtime.atomic.STALE_SECONDS - 60
    os.utime(left, (old, old))
    tokenize(make_documents(10), make_tokenizer(), cache_dir=tmp_path)
    assert not left.exists() and len(entries(tmp_path)) == 2


def test_an_interrupted_build_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenize(make_documents(), make_tokenizer(), cache_dir=tmp_path)
    assert entries(tmp_path) == []


# Long documents

NASTY = (
    "plain words and numbers 12 34 a 1 b 2 of all kinds",
    "don't  can't  two  spaces   three, tabs\tand\nlines \n here I 'm it 's",
    "e\u0301 cafe\u0301 a b \u0301c ß ΣΑΣ ΟΔΟΣ ω ΣΑΣ x İ i ﬁ ½ 1 ½ 2 字幕 a 字 b 👩\u200d💻 a b",
    "[MASK] a <mask> b [MASK]c d[MASK] e <s> f </s> g [SEP] h",
    "\u00a0a \u2003b \u2581 c a\u2581b x \u2581y ab  cd x-y z . a , b ! c",
    "x" * 300 + " " + "y" * 40 + " z",
)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_a_document_split_into_pieces_has_the_same_tokens(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Tokenizer.from_str(small_models.make_tokenizer(family).backend_tokenizer.to_str())
    backend.no_truncation()
    assert can_split(backend)
    rng = random.Random(0)
    words = [word for text in NASTY for word in re.split("( )", text)]
    texts = [*NASTY, *("".join(rng.choices(words, k=60)) for _ in range(200))]
    monkeypatch.setattr("imdbcls.data.pieces.PIECE", 3)
    num_split = 0
    for text in texts:
        pieces = list(pieces_of(text, can_split=True))
        assert "".join(pieces) == text
        num_split += len(pieces) > 1
        expected = backend.encode(text, add_special_tokens=False).ids
        parts = backend.encode_batch_fast(pieces, add_special_tokens=False)
        assert [token for part in parts for token in part.ids] == expected, text
    assert num_split > 150


def test_a_tokenizer_that_reads_across_spaces_gets_complete_documents() -> None:
    def changed(**parts: object) -> bool:
        about = json.loads(small_models.make_tokenizer("roberta").backend_tokenizer.to_str())
        return can_split(Tokenizer.from_str(json.dumps(about | parts)))

    token = {"id": 0, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    assert changed()
    assert changed(added_tokens=[token | {"content": "    "}, token | {"id": 1, "content": "<end>", "rstrip": True}])
    assert not changed(added_tokens=[token | {"content": "new york"}])
    assert not changed(added_tokens=[token | {"content": "word", "rstrip": True}])
    assert not changed(normalizer={"type": "Prepend", "prepend": "\u2581"})
    assert not changed(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": ""})
    assert not changed(pre_tokenizer=None)
    assert not changed(pre_tokenizer={"type": "Whitespace"})
    assert list(pieces_of("a " * PIECE, can_split=False)) == ["a " * PIECE]


def test_calls_of_the_tokenizer_are_bounded_by_characters() -> None:
    texts = ["a b " * 2**19, "short", "", "c d " * 2**15] + ["e"] * 3 * MAX_PIECES
    seen: dict[int, str] = dict.fromkeys(range(len(texts)), "")
    for rows, batch in batches_of(texts, can_split=True):
        assert len(rows) == len(batch) <= MAX_PIECES
        assert sum(map(len, batch)) <= BATCH and max(map(len, batch)) <= PIECE + 4
        for row, piece in zip(rows, batch, strict=True):
            seen[row] += piece
    assert list(seen.values()) == texts


def test_a_long_document_is_tokenized_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_models.make_tokenizer("roberta")
    texts = ["one two three four five six", "", "seven", "eight nine ten"]
    documents = Documents(list("abcd"), texts, np.array([0, 1, 0, 1]))
    whole = tokenize(documents, tokenizer, cache_dir=tmp_path / "whole")
    monkeypatch.setattr("imdbcls.data.pieces.PIECE", 4)
    cut = tokenize(documents, tokenizer, cache_dir=tmp_path / "cut")
    assert cut.ids.tolist() == whole.ids.tolist() and cut.offsets.tolist() == whole.offsets.tolist()


def test_ids_above_the_size_of_the_vocabulary_are_stored(tmp_path: Path) -> None:
    """The dtype of the ids depends on the highest id: a vocabulary may have holes."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 70_000}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    tokens = tokenize(Documents(["0"], ["good"], np.array([0])), tokenizer, cache_dir=tmp_path)
    assert tokens.ids.tolist() == [70_000]
