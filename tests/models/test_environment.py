"""A run's environment is recorded, and compared on resume and evaluation. Kernels are ready before timing starts."""

import json
from pathlib import Path

import pytest
import torch
from support.encoders import make as make_encoder
from support.hardware import HAS_HALF, needs_kernels_in_use
from support.kernels import HALF
from support.trainers import make
from torch import nn

from imdbcls.heads.cls import ClsHead
from imdbcls.heads.lstm import LSTMHead
from imdbcls.kernels import loading
from imdbcls.kernels.encoder import accelerate
from imdbcls.kernels.heads import accelerate_head
from imdbcls.models.classifier import Classifier
from imdbcls.models.environment import environment_of, path_of
from imdbcls.reevaluation import report_difference
from imdbcls.runtime import environment
from imdbcls.runtime.device import Hardware
from imdbcls.tracking import Trackers

PRECISION = "bf16" if HAS_HALF else "fp32"  # the precision in which kernels are used, if available
CPU = torch.device("cpu")


class Loaded:
    """A stand-in for kernels that has only a name."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate kernels for both dtypes, although no processor uses both."""
    found = {HALF: Loaded("avx512_bf16+amx"), torch.float32: Loaded("avx2_fp32")}
    for target in ("imdbcls.kernels.loading.load", "imdbcls.kernels.recurrent.load"):
        monkeypatch.setattr(target, found.get)
    monkeypatch.setattr("imdbcls.kernels.recurrent.computes_bf16", lambda device: True)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("imdbcls.kernels.loading.load", "imdbcls.kernels.recurrent.load"):
        monkeypatch.setattr(target, lambda dtype: None)


def cls_head() -> ClsHead:
    return ClsHead(hidden_size=96, num_labels=2, dropout=0.1)


def lstm_head(width: int = 96) -> LSTMHead:
    return LSTMHead(hidden_size=width, num_labels=2, dropout=0.1, bidirectional=False)


def classifier(head: nn.Module, fast: bool = True, **changes: float) -> Classifier:
    encoder = make_encoder("bert", **changes)
    if fast:
        accelerate(encoder)
        accelerate_head(head)
    return Classifier(encoder, head)


def path(hardware: Hardware, model: Classifier, training: bool) -> str:
    return path_of(hardware, model.encoder, model.head, training)


def test_numeric_path_names_encoder_and_head_kernels(both: None, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"cls": cls_head(), "lstm": lstm_head(), "odd": lstm_head(40)}
    half, full, cuda = Hardware(CPU, "bf16"), Hardware(CPU, "fp32"), Hardware(torch.device("cuda"), "bf16")
    for head in ("cls", "lstm"):
        assert path(half, classifier(heads[head]), training=True) == "avx512_bf16+amx"
        assert path(full, classifier(heads[head]), training=True) == "avx2_fp32"
        assert path(cuda, classifier(heads[head]), training=True) == "pytorch"
    assert path(half, classifier(heads["odd"]), training=False) == "avx512_bf16+amx and pytorch"
    for head in (cls_head(), lstm_head()):
        assert path(half, classifier(head, fast=False), training=True) == "pytorch"
    dropped = classifier(heads["cls"], attention_probs_dropout_prob=0.1)  # training uses the library's layers
    assert path(half, dropped, training=True) == "pytorch"
    assert path(half, dropped, training=False) == "avx512_bf16+amx"
    recomputing = classifier(heads["cls"])
    recomputing.encoder.encoder.layer[0].gradient_checkpointing = True
    for training in (True, False):  # the same in evaluation: the setting decides, not the mode
        assert path(half, recomputing, training=training) == "pytorch"
    monkeypatch.setattr("imdbcls.kernels.recurrent.computes_bf16", lambda device: False)
    assert path(half, classifier(heads["lstm"]), training=True) == "avx2_fp32 and avx512_bf16+amx"
    without_kernels(monkeypatch)
    assert path(half, classifier(heads["lstm"]), training=True) == "pytorch"


@needs_kernels_in_use
def test_recorded_kernels_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    call = loading.Kernels.call
    monkeypatch.setattr(
        loading.Kernels, "call", lambda self, *arguments: (called.add(self.name), call(self, *arguments))[1]
    )
    model = classifier(lstm_head()).train()
    hardware = Hardware(CPU, PRECISION)
    ids_BT = torch.ones((2, 9), dtype=torch.int64)
    with hardware.forward_pass():
        model(ids_BT, ids_BT.bool(), token_indices_N=torch.arange(18)).sum().backward()
    assert called == {path(hardware, model, training=True)}


def test_library_settings_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    model, hardware = classifier(cls_head()), Hardware(CPU, "fp32")
    plain = environment_of(hardware, model, model)
    assert plain["variables"] == "none" and plain["onednn"] == "on" and plain["float32_products"] == "highest"
    assert plain["instructions"] == torch.backends.cpu.get_cpu_capability() and plain["processor"]
    assert f"{torch.get_num_threads()} thread" in plain["hardware"]
    assert "kernels" not in environment_of(hardware, None, model)
    assert ("compiler" in plain) == (plain["kernels"] != "pytorch")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert environment_of(hardware, model, model)["variables"] == "MKL_CBWR=COMPATIBLE, ONEDNN_MAX_CPU_ISA=AVX2"
    before = torch._C._get_mkldnn_enabled()
    try:
        torch._C._set_mkldnn_enabled(False)
        assert environment_of(hardware, model, model)["onednn"] == "off"
    finally:
        torch._C._set_mkldnn_enabled(before)
    assert json.loads(json.dumps(plain)) == plain


def test_workspace_of_cublas_is_recorded_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in environment.machine_environment("cuda")["variables"]
    assert "CUBLAS" not in environment.machine_environment("cpu")["variables"]


@needs_kernels_in_use
def test_resume_without_kernels_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"precision={PRECISION}", "data.train_limit=32")
    first = make(tmp_path, *settings)
    used = first.saver.environment["kernels"]
    assert used != "pytorch"
    first.saver.save(first.state, first.meter)
    first.saver.wait()
    same = make(tmp_path, *settings)
    assert same.resume() == 0 and same.state.changes == []

    without_kernels(monkeypatch)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    other = make(tmp_path, *settings)
    capsys.readouterr()
    assert other.resume() == 0
    (change,) = other.state.changes
    assert change.startswith("after step 0: ") and f"kernels {used} → pytorch" in change
    assert "compiler " in change and "→ not recorded" in change and "ONEDNN_MAX_CPU_ISA=AVX2" in change
    assert f"kernels {used} → pytorch" in capsys.readouterr().err


def test_checkpoint_of_older_version_resumes_and_missing_fields_are_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(tmp_path, "data.train_limit=32")
    older = ("hardware", "instructions", "imdbcls", "torch", "transformers", "tokenizers", "numpy")
    now = dict(first.saver.environment)
    first.saver.environment = {name: now[name] for name in older}
    first.saver.save(first.state, first.meter)
    first.saver.wait()
    again = make(tmp_path, "data.train_limit=32")
    assert again.resume() == 0
    (change,) = again.state.changes
    assert (
        f"kernels not recorded → {now['kernels']}" in change
        and f"processor not recorded → {now['processor']}" in change
    )
    assert "torch" not in change.replace("pytorch", "") and "kernels not recorded" in capsys.readouterr().err


def test_different_metrics_are_explained_by_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    here = {"hardware": "CPU, 2 threads, bf16", "scoring_kernels": "pytorch", "variables": "none"}
    there = {**here, "kernels": "avx512_bf16", "scoring_kernels": "avx512_bf16"}

    def logged(figure: float, **recorded: object) -> str:
        report_difference({"test/accuracy": figure}, {"test/accuracy": 0.5, **recorded}, here)
        return capsys.readouterr().err

    assert logged(0.5, environment=there) == "The metrics equal the recorded ones to the last digit.\n"
    report_difference({"test/brier": 0.5}, {"test/accuracy": 0.5}, here)
    assert capsys.readouterr().err == "The run did not record test/brier.\n"
    found = logged(0.75, environment=there)
    assert "test/accuracy is 0.75, but the run recorded 0.5." in found
    assert "may be the cause: scoring_kernels avx512_bf16 → pytorch." in found and "hardware" not in found
    assert "the code or a library has probably changed" in logged(0.75, environment=here)
    rounded = logged(0.75, environment=here | {"feature_cache": "bfloat16"})
    assert "may be the cause: feature_cache bfloat16 → none." in rounded
    assert "did not record its environment" in logged(0.75)
    assert "did not record its environment" in logged(0.75, environment=["x"])
    hostile = logged(0.75, environment=here | {"variables": "\x1b[2J" + "x" * 9999})
    assert "\x1b" not in hostile and len(hostile) < 600


@needs_kernels_in_use
def test_kernels_are_ready_before_the_time_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling the kernels must not add seconds to the measured time of the first run on a machine."""
    found: list[torch.dtype] = []
    find_or_build = loading.find_or_build

    def counted(dtype: torch.dtype) -> tuple[loading.Kernels, str | None]:
        found.append(dtype)
        return find_or_build(dtype)

    monkeypatch.setattr(loading, "find_or_build", counted)
    loading.load.cache_clear()
    trainer = make(tmp_path, "head=lstm", f"precision={PRECISION}", "data.train_limit=16", "epochs=1")
    assert len(found) == 1
    trainer.fit(Trackers())
    assert len(found) == 1 and trainer.state.train_seconds > 0
