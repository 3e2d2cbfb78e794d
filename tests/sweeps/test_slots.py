"""`jobs=auto` trains one run per GPU: each forked job gets a device mask with one GPU. No GPU is needed."""

import os
import time
from pathlib import Path

import pytest
import torch
from support.runs import TINY

import imdbcls
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.runs.folder import run_folder
from imdbcls.runtime.device import visible_gpus
from imdbcls.sweeps.jobs import Sweep
from imdbcls.sweeps.multirun import start_job
from imdbcls.sweeps.slots import num_jobs


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def config(*overrides: str) -> Config:
    return imdbcls.compose(*TINY, "tracker=none", "device=cuda", *overrides)


def run_jobs(folder: Path, jobs: str, number: int, together: int) -> list[tuple[str, float, float]]:
    """Run jobs in a sweep, the first `together` of them at the same time.

    Return the device mask, the start and the end of each job.
    """

    def job(trained: Config) -> None:
        started = time.monotonic()
        (folder / f"{trained.seed}.begun").touch()
        while len(list(folder.glob("*.begun"))) < together:
            time.sleep(0.01)
        time.sleep(0.1 * (trained.seed % 3))
        mask = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        (folder / f"{trained.seed}.txt").write_text(f"{mask} {started} {time.monotonic()}")

    sweep = Sweep()
    for seed in range(number):
        each = config(f"seed={seed}", f"jobs={jobs}", f"runs_dir={folder}")
        start_job(sweep, each, run_folder(each), job)
    sweep.wait()
    found = [path.read_text().split() for path in folder.glob("*.txt")]
    assert len(found) == number
    return [(mask, float(start), float(end)) for mask, start, end in found]


def test_each_running_job_has_a_gpu_of_its_own(two_gpus: None, tmp_path: Path) -> None:
    jobs = run_jobs(tmp_path, "auto", 6, together=2)
    assert {mask for mask, _, _ in jobs} == {"0", "1"}
    for mask, start, end in jobs:
        simultaneous = [other for other in jobs if other[1] < end and start < other[2]]
        assert [other[0] for other in simultaneous].count(mask) == 1
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_mask_of_the_user_is_respected(two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5a, GPU-7c")
    assert visible_gpus() == ["GPU-5a", "GPU-7c"]
    assert {mask for mask, _, _ in run_jobs(tmp_path, "3", 3, together=3)} == {"GPU-5a", "GPU-7c"}


def test_jobs_on_gpus_share_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job sees only its own GPU, so it must not divide the threads by the number of visible GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        torch.cuda, "device_count", lambda: len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(","))
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        sweep = Sweep()
        for seed in range(2):
            each = config(f"seed={seed}", "jobs=auto", f"runs_dir={tmp_path}")
            file = tmp_path / f"{seed}.threads"
            start_job(sweep, each, run_folder(each), lambda _, file=file: file.write_text(str(torch.get_num_threads())))
        sweep.wait()
    finally:
        torch.set_num_threads(threads)
    assert [file.read_text() for file in tmp_path.glob("*.threads")] == ["2", "2"]


def test_one_job_uses_all_gpus(two_gpus: None, tmp_path: Path) -> None:
    assert {mask for mask, _, _ in run_jobs(tmp_path, "1", 2, together=1)} == {"all"}


def test_auto_is_one_job_without_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_jobs(config("jobs=auto")) == 2
    assert num_jobs(config("jobs=auto").with_changes(device="cpu")) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert num_jobs(config("jobs=auto")) == 1
    assert num_jobs(config("jobs=4")) == 4


def test_another_word_is_refused() -> None:
    with pytest.raises(UserError, match="jobs=all is not"):
        config("jobs=all")
