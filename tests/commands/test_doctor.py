"""The doctor tells what is there and what to do about the rest, soon, and whatever is wrong with the machine."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.runs import ROOT

from imdbcls import doctor

CHECKS = (
    "python",
    "versions",
    "torch",
    "device",
    "bf16",
    "matrix units",
    "attention",
    "kernels",
    "threads",
    "allocator",
    "memory",
    "W&B",
    "hub",
    "hub cache",
    "backbones",
    "token cache",
)


def diagnose(home: Path, **environment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HF_", "IMDBCLS"))}
    answer = subprocess.run(
        [sys.executable, "-m", "imdbcls.doctor"],
        cwd=ROOT,
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0 and answer.stderr == ""
    lines = answer.stdout.splitlines()
    assert [line[:13].strip() for line in lines] == list(CHECKS)
    return {line[:13].strip(): line[13:].strip() for line in lines}


def test_a_machine_without_anything(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        found = diagnose(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}", OMP_NUM_THREADS="1")
        # Ten seconds on a machine at rest; here others may hold the cores.
        assert time.monotonic() - started < 40
    assert "cannot be told" not in "".join(found.values())
    assert "wandb login" in found["W&B"]
    assert "cannot be reached: use backbone=minilm" in found["hub"]
    assert "empty" in found["hub cache"] and "tiny" in found["backbones"].partition(";")[0]
    assert "0 entries" in found["token cache"]
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_what_is_there_is_found_and_no_key_is_shown(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--FacebookAI--roberta-base" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "model.safetensors").write_bytes(b"")
    (tmp_path / "hub" / "datasets--stanfordnlp--imdb").mkdir()
    (tmp_path / "tokens" / "entry").mkdir(parents=True)
    (tmp_path / "tokens" / "entry" / "ids.bin").write_bytes(bytes(1_500_000))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password verysecretkey\n")
    found = diagnose(
        tmp_path,
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(tmp_path / "hub"),
        IMDBCLS_CACHE=str(tmp_path),
    )
    assert found["W&B"] == "a key for api.wandb.ai in .netrc: runs are logged online"
    assert "verysecretkey" not in "".join(found.values())
    assert found["hub"].startswith("HF_HUB_OFFLINE is set")
    assert "models FacebookAI/roberta-base; datasets stanfordnlp/imdb" in found["hub cache"]
    assert "roberta-base" in found["backbones"].partition(";")[0]
    assert "1 entries, 1.5 MB" in found["token cache"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WANDB_API_KEY": "secret"}, "a key for api.wandb.ai in WANDB_API_KEY"),
        ({"WANDB_API_KEY": "secret", "WANDB_MODE": "offline"}, "WANDB_MODE=offline: runs are logged offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "no key for wandb.example.org"),
    ],
)
def test_the_key_as_training_would_find_it(
    variables: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words in doctor.wandb_key() and "secret" not in doctor.wandb_key()


def test_versions_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not doctor.breaks(Requirement("torch>=2.8"))
    true_version = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "4.57.0" if name == "transformers" else true_version(name))
    assert doctor.versions().startswith("transformers 4.57.0 (needs <6,>=5.0): pip install")
    monkeypatch.setattr(doctor, "version", lambda name: "2.13.0+cu130" if name == "torch" else true_version(name))
    assert "torch" not in doctor.versions()  # another build of the same version


def test_more_threads_than_the_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 2.5)
    assert doctor.threads().endswith(
        "a quota of 2.5 of them; more threads than cores stall each other: set OMP_NUM_THREADS=2"
    )
    monkeypatch.setattr(doctor, "cpu_quota", lambda: None)
    assert doctor.threads() == "8 for torch, 8 cores usable"


def test_one_check_that_fails_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise OSError("no such sensor")

    monkeypatch.setattr(doctor, "memory", fail)
    monkeypatch.setattr(doctor, "reaches_hub", lambda: True)
    monkeypatch.setattr("sys.argv", ["doctor"])
    doctor.main()
    out = capsys.readouterr().out
    assert "memory        cannot be told: OSError: no such sensor\n" in out
    assert len(out.splitlines()) == len(CHECKS)
