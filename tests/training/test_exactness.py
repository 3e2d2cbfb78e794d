"""Every process computes the same bits, even on crowded cores, and whatever MKL would choose by default."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hardware import needs_intel
from support.limits import HANG_SECONDS
from support.runs import ROOT

from imdbcls.runtime import process

# The sums have the lengths of RoBERTa-base, 768 and 3,072. A process repeats the pass, and prints each
# different hash once.
PASSES = """
import hashlib, sys, time
from imdbcls.runtime.process import tune_process
tune_process()
import torch
from transformers import RobertaConfig, RobertaModel
from imdbcls.kernels.encoder import accelerate
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
sizes = {"vocab_size": 200, "max_position_embeddings": 70, "num_hidden_layers": 1, "hidden_dropout_prob": 0.0}
model = RobertaModel(RobertaConfig(**sizes, attention_probs_dropout_prob=0.0), add_pooling_layer=False)
accelerate(model)
ids_BT = torch.randint(4, 200, (4, 64), generator=torch.Generator().manual_seed(1))
seen, until = set(), time.monotonic() + float(sys.argv[2])
while not seen or time.monotonic() < until:
    model.zero_grad()
    hidden_BTH = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state
    hidden_BTH.square().sum().backward()
    digest = hashlib.sha256(hidden_BTH.detach().numpy().tobytes())
    for weight in model.parameters():
        digest.update(weight.grad.numpy().tobytes())
    seen.add(digest.hexdigest())
print(*seen)
"""

# Print the hash of a matrix product with sums of 3,072 terms, computed with one to four threads.
PRODUCTS = """
import hashlib
from imdbcls.runtime.process import tune_process
tune_process()
import torch
generator = torch.Generator().manual_seed(0)
x_NK, weight_OK = (torch.randn(size, 3072, generator=generator) for size in (300, 768))
for threads in (1, 2, 3, 4):
    torch.set_num_threads(threads)
    print(hashlib.sha256(torch.nn.functional.linear(x_NK, weight_OK).numpy().tobytes()).hexdigest())
"""


def hashes(threads: tuple[int, ...], seconds: float, **environment: str) -> list[str]:
    """Run a process for each number of threads, all in parallel. Return the hashes that each process prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MKL_", "OMP_", "GOMP_"))}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PASSES, str(count), str(seconds)],
            cwd=ROOT,
            env={**kept, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for count in threads
    ]
    return [each.communicate(timeout=HANG_SECONDS)[0].strip() for each in started]


@pytest.mark.slow
def test_processes_on_crowded_cores_give_one_hash() -> None:
    found = hashes((2, 2, 2), seconds=8)
    assert len(found[0]) == 64 and len(set(found)) == 1


@needs_intel  # MKL fixes the order of its sums only on Intel processors
def test_number_of_threads_does_not_change_float32_products() -> None:
    def products(**environment: str) -> set[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
        command = [sys.executable, "-c", PRODUCTS]
        done = subprocess.run(
            command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=True
        )
        found = done.stdout.split()
        assert len(found) == 4
        return set(found)

    assert len(products()) == 1
    assert len(products(MKL_CBWR="AUTO")) > 1  # the user's setting is respected, and the bits differ


LATE = """
import torch
torch.ones(64, 64) @ torch.ones(64, 64)
from imdbcls.runtime.process import tune_process
tune_process()
from imdbcls.runtime.environment import mkl_mode
print(mkl_mode())
"""


@needs_intel  # MKL fixes the order of its sums only on Intel processors
def test_mode_that_is_set_too_late_is_not_recorded() -> None:
    """MKL ignores the setting after its first product, such as one in a notebook before training."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
    early = LATE.replace("torch.ones(64, 64) @ torch.ones(64, 64)", "")
    modes = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
        for code in (early, LATE)
    ]
    if modes[0].stdout.strip() == "unknown":
        assert modes[1].stdout.strip() == "unknown"  # PyTorch without MKL
    else:
        assert [done.stdout.strip() for done in modes] == ["auto, strict", "off"]


def test_user_settings_take_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "tune_allocator", lambda: None)
    monkeypatch.setattr(process, "_is_by_intel", lambda: True)
    own = {"MKL_CBWR": "COMPATIBLE", "MKL_DYNAMIC": "TRUE", "OMP_DYNAMIC": "TRUE", "GOMP_SPINCOUNT": "7"}
    own["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    process.tune_process()
    assert {name: os.environ[name] for name in own} == own
    for name in own:
        monkeypatch.delenv(name)
    process.tune_process()
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    assert os.environ["MKL_DYNAMIC"] == os.environ["OMP_DYNAMIC"] == "FALSE"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for name in own:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "_is_by_intel", lambda: False)
    process.tune_process()
    assert "MKL_CBWR" not in os.environ and os.environ["MKL_DYNAMIC"] == "FALSE"
