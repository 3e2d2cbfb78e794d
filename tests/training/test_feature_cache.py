"""Tests for the cache of a frozen encoder's output: one pass per document, the same results, no partial entries."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.heads import FOR_TWO_LAYERS, HEADS, LAYER_HEADS
from support.processes import EVERY_STEP, TINY, fingerprint, kill_at, run, run_folder, start
from support.trainers import make
from torch import Tensor, nn

import imdbcls
from imdbcls import build, sections
from imdbcls.data import features
from imdbcls.data.batch import Batch
from imdbcls.errors import UserError
from imdbcls.kernels import identity
from imdbcls.models.classifier import Classifier
from imdbcls.models.inference import predict_probabilities
from imdbcls.runtime import device
from imdbcls.runtime.device import Hardware
from imdbcls.tracking import Trackers
from imdbcls.training import checkpoint, feature_cache
from imdbcls.training.trainer import Trainer

FROZEN = "backbone.freeze=true"
DOCUMENTS = 64 + 24 + 40  # train, validation and test documents of a trainer from `make`


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of rows of every batch that the encoder processes from now on."""
    rows: list[int] = []
    encode = Classifier.encode

    def counting(self: Classifier, input_ids_BT: Tensor, *arguments: Any) -> Tensor:
        rows.append(len(input_ids_BT))
        return encode(self, input_ids_BT, *arguments)

    monkeypatch.setattr(Classifier, "encode", counting)
    return rows


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("features/*"))


def trained(folder: Path, *overrides: str) -> tuple[Trainer, dict[str, Any]]:
    """Train a run to its end; return the trainer and its results."""
    trainer = make(folder, FROZEN, "lr=1e-2", f"data.cache_dir={folder.parent}", *overrides)
    trainer.fit(Trackers())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return trainer, {
        "logged": [{key: value for key, value in line.items() if "second" not in key} for line in lines],
        "head": {name: value.clone() for name, value in trainer.model.head.state_dict().items()},
        "probabilities": predict_probabilities(trainer.model, trainer.batches.validation, trainer.hardware),
    }


def test_each_document_is_encoded_once_for_all_epochs_heads_and_seeds(tmp_path: Path, encoded: list[int]) -> None:
    trained(tmp_path / "first", "head=lstm", "epochs=3")
    assert sum(encoded) == DOCUMENTS and len(entries(tmp_path)) == 3
    for number, choices in enumerate((["head=cls"], ["head=mean", "data.order_seed=7"], ["head=lstm", "batch_size=5"])):
        trained(tmp_path / str(number), *choices)
    assert sum(encoded) == DOCUMENTS


def test_kernels_of_the_head_do_not_change_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "pytorch", FROZEN, f"data.cache_dir={tmp_path}")
    before = entries(tmp_path)

    def kernels_of_head(head: nn.Module, dtype: torch.dtype) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(name="other") for module in head.modules() if isinstance(module, nn.Linear))

    monkeypatch.setattr(identity, "kernels_of_head", kernels_of_head)
    make(tmp_path / "compiled", FROZEN, f"data.cache_dir={tmp_path}")
    assert len(before) == 3 and entries(tmp_path) == before


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_results_equal_those_without_the_cache(truncation: str, tmp_path: Path) -> None:
    """The runs use fp32, dropout on the features, micro-batches, and documents longer than max_length."""
    settings = ("head=lstm", f"data.truncation={truncation}", "max_length=24", "trainer.micro_batch_size=5")
    _, with_cache = trained(tmp_path / "with", *settings)
    _, without = trained(tmp_path / "without", *settings, "backbone.cache=false")
    assert len(with_cache["logged"]) == len(without["logged"]) > 4
    for point, expected in zip(with_cache["logged"], without["logged"], strict=True):
        assert point == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(with_cache["probabilities"], without["probabilities"], atol=1e-5)
    for name, weight in with_cache["head"].items():
        torch.testing.assert_close(weight, without["head"][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_from_the_cache_gives_the_same_bits(precision: str, tmp_path: Path) -> None:
    settings = (FROZEN, f"precision={precision}", "max_length=24", f"data.cache_dir={tmp_path}")
    trainers = [make(tmp_path / cache, *settings, f"backbone.cache={cache}") for cache in ("true", "false")]
    for head in sorted(set(HEADS) - set(LAYER_HEADS)):  # test_head_input has the heads that read several layers
        config = imdbcls.compose("backbone=tiny", f"head={head}", FROZEN, "max_length=24")
        probabilities = []
        for trainer in trainers:
            torch.manual_seed(0)
            backbone = replace(sections.build_backbone(config), encoder=trainer.model.encoder)
            model = sections.build_model(config, backbone, 2)
            probabilities.append(predict_probabilities(model, trainer.batches.validation, trainer.hardware))
        assert np.array_equal(*probabilities), head


@pytest.mark.parametrize(
    ("kind", "precision", "head", "dtype"),
    [
        ("cuda", "bf16", "mean", torch.bfloat16),
        ("cuda", "bf16", "max_cls", torch.float32),  # reads one vector per layer
        ("cuda", "fp32", "mean", torch.float32),
        ("cpu", "bf16", "mean", torch.float32),  # as without the cache
    ],
)
def test_tokens_are_cached_in_bfloat16_on_cuda(
    kind: str, precision: str, head: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder runs on the CPU and returns float32, as the last LayerNorm does in bf16 on CUDA."""
    trainer = make(
        tmp_path, FROZEN, "backbone.cache=false", "backbone.fast=false", f"head={head}", *FOR_TWO_LAYERS.get(head, ())
    )
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    monkeypatch.setattr(Hardware, "forward_pass", lambda self: contextlib.nullcontext())
    batches = trainer.batches.validation
    expected, found = (
        list(feature_cache.encode(trainer.model, batches, hardware, lambda done, total: None))
        for hardware in (Hardware(torch.device("cpu"), "fp32"), Hardware(torch.device(kind), precision))
    )
    assert {part.vectors.dtype for part in found} == {dtype}
    for part, exact in zip(found, expected, strict=True):
        assert torch.equal(part.vectors, exact.vectors.to(dtype)) and exact.vectors.dtype == torch.float32


@pytest.mark.parametrize(
    ("rounds", "recipe", "recorded"),
    [
        (True, [FROZEN], "bfloat16"),
        (True, [FROZEN, "backbone.cache=false"], None),
        (True, ["trainer.head_first_epochs=1", "epochs=2"], None),  # the encoder has changed before the evaluation
        (False, [FROZEN], None),
    ],
)
def test_rounding_of_evaluated_documents_is_recorded(
    rounds: bool, recipe: list[str], recorded: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (feature_cache, build):
        monkeypatch.setattr(module, "is_rounded", lambda hardware, head_input: rounds)
    assert make(tmp_path, *recipe).saver.environment.get("feature_cache") == recorded


KEYED = {
    "max_length": ["max_length=32"],
    "truncation": ["data.truncation=tail", "max_length=16"],
    "precision": ["precision=bf16"],
    "weights": ["seed=1"],
    "layers": ["backbone.fast=false"],
    "documents": ["data.split_seed=3"],
    "batches": ["eval_batch_size=1"],
}


@pytest.mark.parametrize("what", KEYED)
def test_changes_of_the_output_change_the_key(what: str, tmp_path: Path) -> None:
    first = [KEYED["truncation"][1]] if what == "truncation" else []
    make(tmp_path / "first", FROZEN, *first, f"data.cache_dir={tmp_path}")
    before = entries(tmp_path)
    make(tmp_path / "second", FROZEN, *KEYED[what], f"data.cache_dir={tmp_path}")
    assert set(before) < set(entries(tmp_path)) and len(entries(tmp_path)) == 6


def test_rounding_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions stored float32 in bf16 on CUDA, too."""
    for rounds in (False, True):
        monkeypatch.setattr(feature_cache, "is_rounded", lambda hardware, head_input, rounds=rounds: rounds)
        make(tmp_path / str(rounds), FROZEN, f"data.cache_dir={tmp_path}")
    stored = [json.loads((entry / features.ABOUT).read_text())["dtype"] for entry in entries(tmp_path)]
    assert sorted(stored) == ["bfloat16"] * 3 + ["float32"] * 3


# A cache that is too small, damaged or incomplete.


def test_cache_limit_is_checked_before_anything_is_written(tmp_path: Path, encoded: list[int]) -> None:
    """The limit applies to the sum of the existing and the new entries, to the byte."""
    make(tmp_path / "first", FROZEN, f"data.cache_dir={tmp_path}")
    held = sum(path.stat().st_size for path in tmp_path.glob(f"features/*/{features.VECTORS}"))
    encoded.clear()
    other = (FROZEN, "seed=1", f"data.cache_dir={tmp_path}")
    with pytest.raises(
        UserError, match=r"needs \d\.\d+ MB, but .* its limit is backbone\.cache_gb=.*backbone\.cache=false"
    ):
        make(tmp_path / "second", *other, f"backbone.cache_gb={(2 * held - 1) / 1e9!r}")
    assert len(encoded) == 1 and len(entries(tmp_path)) == 3
    make(tmp_path / "third", *other, f"backbone.cache_gb={(2 * held) / 1e9!r}")
    assert len(entries(tmp_path)) == 6


def test_too_little_disk_space_raises_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))(10**12, 10**12, int(feature_cache.RESERVE) + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"has only 0\.00 MB available .*IMDBCLS_CACHE.*backbone\.cache=false"):
        make(tmp_path / "run", FROZEN, f"data.cache_dir={tmp_path}")
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (features.VECTORS, "flip"),
        (features.VECTORS, "rot"),
        (features.VECTORS, "cut"),
        (features.INDEX, "flip"),
        (features.INDEX, "remove"),
        (features.ABOUT, "cut"),
        (features.ABOUT, "remove"),
    ],
)
def test_damaged_entry_is_logged_and_rebuilt(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "first", FROZEN, f"data.cache_dir={tmp_path}")
    whole = {path: path.read_bytes() for path in tmp_path.glob(f"features/*/{features.VECTORS}")}
    path = entries(tmp_path)[0] / file
    raw, times = bytearray(path.read_bytes()), path.stat()
    raw[len(raw) // 2] ^= 0x15
    path.unlink()
    if damage != "remove":
        path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw)
    if damage == "rot":  # a bit flip on the disk does not change the file's size or times
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    make(tmp_path / "second", FROZEN, f"data.cache_dir={tmp_path}")
    logged = capsys.readouterr().err
    assert logged.count("is damaged") == 1 and logged.count("Encoding the") == 1
    assert whole == {path: path.read_bytes() for path in tmp_path.glob(f"features/*/{features.VECTORS}")}


@pytest.mark.parametrize("place", ["first byte", "last byte", "block border", "two parts swapped"])
def test_checksum_covers_every_byte(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small checksum blocks, so that writes end inside blocks and cross their boundaries."""
    monkeypatch.setattr(features, "BLOCK", 1000)
    hidden_ND = torch.arange(37 * 8, dtype=torch.float32).reshape(37, 8)
    parts = [
        features.Encoded(np.array([1]), np.array([30]), hidden_ND[:30], pooled=False),
        features.Encoded(np.array([0]), np.array([7]), hidden_ND[30:], pooled=False),
    ]
    entry = tmp_path / "entry"
    features.write_features(entry, 2, parts)
    found = features.load_features(entry)
    assert found is not None
    assert torch.equal(found.padded(np.array([0, 1]), np.array([7, 30]), 30)[1], hidden_ND[:30])
    raw = bytearray((entry / features.VECTORS).read_bytes())
    assert len(raw) == 1184
    if place == "two parts swapped":
        raw[:184], raw[1000:] = raw[1000:], raw[:184]
    else:
        raw[{"first byte": 0, "last byte": -1, "block border": 1000}[place]] ^= 1
    (entry / features.VECTORS).write_bytes(raw)
    assert features.load_features(entry) is None and not entry.exists()


def test_copied_cache_is_used(tmp_path: Path, encoded: list[int]) -> None:
    """Copying changes the times of the files, but only the checksums count."""
    make(tmp_path / "first", FROZEN, f"data.cache_dir={tmp_path / 'one'}")
    shutil.copytree(tmp_path / "one", tmp_path / "other", copy_function=shutil.copyfile)
    encoded.clear()
    make(tmp_path / "second", FROZEN, f"data.cache_dir={tmp_path / 'other'}")
    assert encoded == []


def test_error_while_encoding_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> Iterator[features.Encoded]:
        yield next(encode(*arguments))
        raise KeyboardInterrupt

    encode: Callable[..., Iterator[features.Encoded]] = feature_cache.encode
    monkeypatch.setattr(feature_cache, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run", FROZEN, f"data.cache_dir={tmp_path}")
    assert list((tmp_path / "features").iterdir()) == []


# Complete commands.

COMMAND = (*TINY, FROZEN, "head=lstm")


@pytest.mark.slow
def test_parallel_commands_encode_once_and_killed_command_resumes_exactly(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other", "killed")]
    for folder in folders:
        folder.mkdir()
    shared = f"data.cache_dir={tmp_path / 'cache'}"
    both = [start(folder, *COMMAND, shared) for folder in folders[:2]]
    assert [command.wait() for command in both] == [0, 0]
    assert sum(command.output.count("Encoding the") for command in both) == 3
    kill_at(folders[2], *COMMAND, shared, EVERY_STEP, step=9)
    again = run(folders[2], *COMMAND, shared)
    assert "Continuing at step" in again.output and "Encoding" not in again.output
    assert fingerprint(folders[0]) == fingerprint(folders[1]) == fingerprint(folders[2])
    last, best = (run_folder(folders[0]) / "checkpoints" / name / "model.safetensors" for name in ("last", "best"))
    assert last.stat().st_size < best.stat().st_size, "a frozen encoder is saved only once, not in every epoch"
    result = json.loads((run_folder(folders[0]) / "result.json").read_text())
    assert result["trainable_parameters"] == result["head_parameters"] < result["parameters"]


def test_encoding_job_uses_the_threads_of_parallel_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[int]] = {"encode": set(), "forward": set()}
    for name, seen in threads.items():
        method = getattr(Classifier, name)

        def watching(*arguments: Any, seen: set[int] = seen, method: Any = method, **inputs: Any) -> Tensor:
            seen.add(torch.get_num_threads())
            return method(*arguments, **inputs)

        monkeypatch.setattr(Classifier, name, watching)
    monkeypatch.setattr(device, "_all_threads", None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        device.share_threads(2)
        trained(tmp_path / "run", "head=mean", "epochs=1")
    finally:
        torch.set_num_threads(before)
    assert threads == {"encode": {4}, "forward": {2}}


def test_frozen_encoder_gives_all_heads_the_same_output() -> None:
    """A head that needs only the first token gets it from a trained encoder, but all tokens from a frozen encoder."""
    config = imdbcls.compose("backbone=tiny", "head=cls", FROZEN)
    assert sections.build_model(config, sections.build_backbone(config), 2).tokens == "all"
    config = imdbcls.compose("backbone=tiny", "head=cls")
    assert sections.build_model(config, sections.build_backbone(config), 2).tokens == "first"


def test_frozen_encoder_is_hashed_and_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best epoch changes several times. After an interruption, a resumed run completes `best`."""
    hashed: list[Any] = []
    saved: list[tuple[str, bool]] = []
    killed_at: int | None = None
    hash_of_weights, save = build.hash_of_weights, checkpoint.save

    def counting_hash(module: Any) -> str:
        hashed.append(module)
        return hash_of_weights(module)

    def counting_save(folder: Path, tensors: Any, state: Any) -> None:
        is_complete = any(name.startswith("encoder.") for name in tensors["model"])
        saved.append((folder.name, is_complete))
        if len(saved) == killed_at:
            raise KeyboardInterrupt
        save(folder, tensors, state)

    monkeypatch.setattr(build, "hash_of_weights", counting_hash)
    monkeypatch.setattr(checkpoint, "save", counting_save)
    settings = (FROZEN, "head=mean", "lr=1e-2", "epochs=3", f"data.cache_dir={tmp_path}")
    trainer = make(tmp_path / "whole", *settings)
    trainer.fit(Trackers())
    assert len(hashed) == 1
    assert [folder for folder, _ in saved].count("best") >= 3, "the best epoch must change several times for this test"
    assert [whole for _, whole in saved] == [False] * (len(saved) - 1) + [True] and saved[-1][0] == "best"

    killed_at, saved[:] = len(saved), []
    killed = make(tmp_path / "killed", *settings)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(Trackers())
    killed_at = None
    again = make(tmp_path / "killed", *settings)
    assert again.resume() == again.num_steps
    again.fit(Trackers())
    best = [tmp_path / name / "checkpoints" / "best" for name in ("whole", "killed")]
    for file in ("model.safetensors", "state.json"):
        assert (best[0] / file).read_bytes() == (best[1] / file).read_bytes()
    found = checkpoint.load(best[1], trainer.model.state_dict()).tensors["model"]
    assert all(torch.equal(tensor, found[name]) for name, tensor in trainer.model.state_dict().items())
    assert sorted(path.name for path in best[1].parent.iterdir()) == ["best", "last"]

    head_only = {name: tensor for name, tensor in found.items() if not name.startswith("encoder.")}
    best[1].rename(best[1].with_name("best.new"))  # the state after a kill between the renames of the last write
    save(best[1], {"model": head_only}, {"epoch": again.state.best_epoch})
    shutil.copytree(best[0], best[1].with_name("best.new"), dirs_exist_ok=True)
    once_more = make(tmp_path / "killed", *settings)
    assert once_more.resume() == again.num_steps, "a complete best.new is also used"
    saved.clear()
    once_more.fit(Trackers())
    assert saved == []
    assert (best[0] / "model.safetensors").read_bytes() == (best[1] / "model.safetensors").read_bytes()
