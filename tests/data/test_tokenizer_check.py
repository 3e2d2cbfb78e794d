"""Test the refusal of model folders whose files would crash the process, exhaust its memory or run code."""

import json
import math
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import make_folder
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from imdbcls.data.documents import Documents
from imdbcls.data.tokenizer_check import TokenizerError, panics_raised, problem_of
from imdbcls.data.tokens import tokenize
from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone, load_backbone
from imdbcls.runs.untrusted import tensor_shapes

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("sound"), "bert")


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a model folder to modify. The cache is empty. Any access to the network fails the test."""
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the network was used"))
    return Path(shutil.copytree(sound, tmp_path / "model"))


def load(folder: Path, pretrained: bool = True) -> Backbone:
    return load_backbone(
        name="it", path=str(folder), pretrained=pretrained, dropout=None, attention_dropout=None, fast=True
    )


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        load(folder)
    sentence = str(refused.value)
    assert "\n" not in sentence and len(sentence) < 700
    return sentence


def change(path: Path, by: Change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    by(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def split_by(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def many_times(step: dict[str, Any], times: int) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [step] * times}


GROWING = many_times({"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 3_000}, 3)
PREPENDED = many_times({"type": "Prepend", "prepend": "a" * 100_000}, 30)
REPLACED = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
TABLE = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
TOKENIZERS: dict[str, tuple[Change, str]] = {
    "an endless regular expression": (lambda t: t.update(pre_tokenizer=split_by("(a+)+$")), "retry-limit"),
    "another": (lambda t: t.update(normalizer=REPLACED), "retry-limit"),
    "not a table": (lambda t: t.update(normalizer=TABLE), "PanicException"),
    "a text that grows": (lambda t: t.update(normalizer=GROWING), "takes more than"),
    "a long beginning": (lambda t: t.update(normalizer=PREPENDED), "takes more than 1 s for"),
    "a text many times": (
        lambda t: t.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [SEQUENCE, *[{"SpecialToken": {"id": "[SEP]", "type_id": 0}}] * 5_000],
                "pair": [SEQUENCE, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
            }
        ),
        "special tokens to each document",
    ),
    "too many added tokens": (
        lambda t: t["added_tokens"].extend(
            {"id": 400 + number, "content": f"<{number}>", "special": False} | ADDED for number in range(20_001)
        ),
        "it adds 20,0",
    ),
    "an id below zero": (lambda t: t["model"]["vocab"].update({"film": -1}), "cannot be used"),
    "an unknown model": (lambda t: t["model"].update(type="os.system"), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_a_hostile_tokenizer_is_refused_within_limits(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    by, sentence = TOKENIZERS[name]
    change(folder / "tokenizer.json", by)
    started = time.process_time()
    found = refusal(folder)
    assert sentence in found
    assert found.startswith(f"{folder}/tokenizer.json cannot be used: ")
    assert time.process_time() - started < 10  # without the time of the child process
    assert "panicked" not in capfd.readouterr().err


def test_a_valid_tokenizer_is_tried_only_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder)
    with monkeypatch.context() as patched:
        patched.setattr("imdbcls.data.tokenizer_check.problem_of", lambda path: pytest.fail("tried again"))
        load(folder)
    change(folder / "tokenizer.json", lambda t: t.update(pre_tokenizer=split_by("(a+)+$")))
    assert "retry-limit" in refusal(folder)


def test_a_module_in_the_working_directory_is_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("tokenizers", "json", "resource"):
        (folder / f"{name}.py").write_text(f"open('made-{name}', 'w')\n")
    assert problem_of(folder / "tokenizer.json") is None
    assert not list(folder.glob("made-*"))


def test_ids_beyond_the_vocabulary_are_refused(folder: Path, tmp_path: Path) -> None:
    highest = 2**32 - 1
    change(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update({"film": highest}))
    assert "the tokenizer needs 4,294,967,296 embeddings" in refusal(folder)


def test_special_tokens_beyond_the_vocabulary_are_refused(folder: Path, tmp_path: Path) -> None:
    processor = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 4_000_000_000]}
    change(folder / "tokenizer.json", lambda t: t.update(post_processor=processor))
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    documents = Documents(["a"], ["a film"], np.zeros(1, dtype=np.int64))
    with pytest.raises(UserError, match="adds the token id 4,000,000,000, but the highest id in its vocabulary is 399"):
        tokenize(documents, tokenizer, cache_dir=tmp_path)


def test_a_panic_on_a_document_raises_user_error() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(TokenizerError, match="The tokenizer crashes: index out of bounds"), panics_raised():
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), panics_raised():
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tokenizer.json", 2**26 + 1),
        ("tokenizer_config.json", 2**24 + 1),
        ("config.json", 2**24 + 1),
        ("spiece.model", 2**30),
    ],
)
def test_huge_files_are_refused_by_size(name: str, size: int, folder: Path) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(size)
    assert f"{name} has {size:,} bytes; at most" in refusal(folder)


def test_thousands_of_added_tokens_are_refused(folder: Path) -> None:
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    added = {str(400 + number): {"content": f"<{number}>", **token} for number in range(20_001)}
    change(folder / "tokenizer_config.json", lambda t: t.update(added_tokens_decoder=added))
    assert "tokenizer_config.json adds 20,001 tokens" in refusal(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_the_hub_are_refused(key: str, folder: Path) -> None:
    change(folder / "config.json", lambda c: c.update({key: "someone/kernel"}))
    assert f"config.json: {key}=someone/kernel is refused" in refusal(folder)
    change(folder / "config.json", lambda c: c.pop(key))
    change(folder / "config.json", lambda c: c.update(text_config={key: "someone/kernel"}))
    assert "is refused" in refusal(folder)


def test_quantized_weights_are_refused(folder: Path) -> None:
    change(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"}))
    assert "describes quantized weights" in refusal(folder)


def test_an_adapter_is_refused(folder: Path) -> None:
    """The library would load the adapter's base model from the hub or from another folder."""
    adapter = {"base_model_name_or_path": "someone/else", "peft_type": "LORA", "r": 1, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    assert "adapter_config.json" in refusal(folder)


# Weights


def rewrite(folder: Path, by: Callable[[dict[str, Any]], object]) -> Path:
    """Rewrite the header of the weights file without changing its data."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    by(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return path


NAME = "embeddings.word_embeddings.weight"
HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a shape of petabytes": lambda h: h[NAME].update(shape=[2**40, 2**10]),
    "a shape beyond counting": lambda h: h[NAME].update(shape=[2**62, 2**62, 4]),
    "a shape below zero": lambda h: h[NAME].update(shape=[-400, -64]),
    "one over another": lambda h: h[NAME].update(data_offsets=h["pooler.dense.weight"]["data_offsets"], shape=[64, 64]),
    "beyond the end": lambda h: h[NAME].update(data_offsets=[2**50, 2**50 + 400 * 64 * 4]),
    "backwards": lambda h: h[NAME].update(data_offsets=h[NAME]["data_offsets"][::-1]),
    "a type of no size": lambda h: h[NAME].update(dtype="F4"),
    "not a type": lambda h: h[NAME].update(dtype=["F32"]),
    "a wider type": lambda h: h[NAME].update(dtype="F64"),
    "one tensor left out": lambda h: h.pop(NAME),
    "a name twice the data": lambda h: h.update({"x": dict(h[NAME])}),
    "no offsets": lambda h: h[NAME].pop("data_offsets"),
}


@pytest.mark.parametrize("name", list(HEADERS))
def test_hostile_headers_are_refused_before_a_tensor_is_read(name: str, folder: Path) -> None:
    path = rewrite(folder, HEADERS[name])
    assert str(path) in refusal(folder)
    with pytest.raises(UserError, match="is not"):
        tensor_shapes(path)


def test_weights_larger_than_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = tensor_shapes(folder / "model.safetensors")
    assert shapes[NAME] == (400, 64)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(UserError, match=r"needs 0\.0 GB of memory, but this machine has 0\.0 GB"):
        tensor_shapes(folder / "model.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[NAME][399, 63] = value  # the embedding of a token that the first forward pass does not read
    save_file(tensors, path, metadata={"format": "pt"})
    assert f"the weights contain NaN or infinity; the first such tensor is {NAME}" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read(dtype: torch.dtype, folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert load(folder).encoder.dtype == torch.float32
