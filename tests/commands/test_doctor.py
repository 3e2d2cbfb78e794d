"""`imdbcls.doctor` reports what the machine has and how to add what is missing, even on a faulty machine."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.runs import ROOT

from imdbcls import doctor
from imdbcls.tracking.server import effective_mode

CHECKS = (
    *("device", "numerics", "kernels", "threads", "encoders", "hub", "W&B", "TensorBoard", "MLflow"),
    *("cache", "hub cache"),
)


def diagnose(home: Path, **environment: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW", "HF_", "IMDBCLS"))
    }
    answer = subprocess.run(
        [sys.executable, "-m", "imdbcls.doctor"],
        cwd=ROOT,
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert answer.returncode == 0 and answer.stderr == ""
    lines = answer.stdout.splitlines()
    found = {line[:13].strip(): line[13:].strip() for line in lines}
    assert list(found) == list(CHECKS)
    return found


def test_machine_without_network_or_gpu(tmp_path: Path) -> None:
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = diagnose(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}", OMP_NUM_THREADS="1")
    assert "unknown (" not in "".join(found.values())
    assert found["device"].startswith("device=auto selects ") and re.search(
        r"\d threads?; bit-identical", found["numerics"]
    )
    assert "`wandb login`" in found["W&B"]
    assert found["TensorBoard"].endswith(": tracker=tensorboard logs to runs/<study>/tensorboard")
    assert found["MLflow"].endswith(
        ": tracker=mlflow logs to runs/<study>/mlflow/mlflow.db; set MLFLOW_TRACKING_URI to use a server"
    )
    assert "cannot be reached: use backbone=minilm" in found["hub"]
    assert "tiny" in found["encoders"].partition(";")[0] and "roberta-base" in found["encoders"].partition(";")[2]
    assert found["cache"].startswith(f"{tmp_path / 'cache' / 'imdbcls'}: 0.0 MB, ")
    assert list(tmp_path.iterdir()) == []  # the doctor writes nothing


def test_available_resources_are_found_and_no_key_is_shown(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--FacebookAI--roberta-base"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokens" / "entry").mkdir(parents=True)
    (tmp_path / "tokens" / "entry" / "ids.bin").write_bytes(bytes(1_500_000))
    (tmp_path / "netrc").write_text(f"machine wandb.example.org\n  login user\n  password {'verysecretkey' * 4}\n")
    found = diagnose(
        tmp_path,
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(tmp_path / "hub"),
        IMDBCLS_CACHE=str(tmp_path),
        NETRC=str(tmp_path / "netrc"),
        WANDB_BASE_URL="https://wandb.example.org",
        MLFLOW_TRACKING_URI="https://user:verysecretkey@mlflow.example.org",
    )
    assert found["MLflow"].endswith("because https://mlflow.example.org (MLFLOW_TRACKING_URI) does not answer")
    assert found["W&B"] == "https://wandb.example.org does not answer: runs are logged offline"
    assert "verysecretkey" not in "".join(found.values())
    assert found["hub"].startswith("HF_HUB_OFFLINE is set")
    assert "roberta-base" in found["encoders"].partition(";")[0]
    assert found["cache"].startswith(f"{tmp_path}: 1.5 MB, ")


@pytest.mark.parametrize(
    ("variables", "mode", "words"),
    [
        (
            {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "online",
            "http://127.0.0.1:9 does not answer: runs",
        ),
        (
            {"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "offline"},
            "offline",
            "WANDB_MODE=offline: runs are logged offline",
        ),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "dryrun"}, "offline", "WANDB_MODE=dryrun: runs are logged offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "offline", "`wandb login` to use https://wandb.example.org"),
        ({"WANDB_DISABLED": "true"}, "disabled", "WANDB_DISABLED is set: nothing is logged"),
    ],
)
def test_wandb_status_matches_training(
    variables: dict[str, str], mode: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb_setup, "_singleton", None)  # wandb has cached the environment of an earlier test
    wbauth.unauthenticate_session(update_settings=False)  # an earlier test may have used a key
    found = doctor.wandb()
    assert words in found and "aaaa" not in found
    assert effective_mode("auto") == mode


def test_more_threads_than_the_quota_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 2.5)
    assert doctor.threads().endswith(
        "limited to 2.5 by a CPU quota; more threads than cores slow the run down: set OMP_NUM_THREADS=2"
    )
    monkeypatch.setattr(doctor, "cpu_quota", lambda: None)
    assert doctor.threads() == "8 for torch, 8 cores available"


def test_failing_check_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise OSError("no such sensor")

    monkeypatch.setattr(doctor, "threads", fail)
    monkeypatch.setattr(doctor, "ask_hub", lambda: True)
    monkeypatch.setattr("sys.argv", ["doctor"])
    doctor.main()
    out = capsys.readouterr().out
    assert "threads      unknown (OSError: no such sensor)\n" in out
    assert len(out.splitlines()) == len(CHECKS)


def test_unwritable_cache_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # needed because root may write anywhere
    found = doctor.cache(tmp_path / "none" / "yet", "IMDBCLS_CACHE")
    assert found.startswith(f"{tmp_path}/none/yet: 0.0 MB") and found.endswith("set IMDBCLS_CACHE to another folder")
