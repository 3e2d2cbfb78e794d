"""Checkpoints survive a kill at any point of a save, and damage to any of their files is detected."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imdbcls.errors import UserError
from imdbcls.runs import metrics_log
from imdbcls.training import checkpoint

FILES = ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")


def weights(step: int, size: int = 1000) -> dict[str, Tensor]:
    return {"a": torch.full((size,), float(step)), "b": torch.full((2, 3), float(step))}


def save(folder: Path, step: int, size: int = 1000) -> None:
    checkpoint.save(
        folder, {"model": weights(step, size), "optimizer": {"0/exp_avg": torch.full((size,), -step)}}, {"step": step}
    )


def newest_step(folder: Path, size: int = 1000) -> int:
    """Return the step of the newest checkpoint, or 0 if there is none; check that all its parts belong to that step."""
    saved = checkpoint.newest(folder, weights(0, size))
    if saved is None:
        return 0
    step = saved.state["step"]
    assert all(torch.equal(saved.tensors["model"][name], tensor) for name, tensor in weights(step, size).items())
    assert (saved.tensors["optimizer"]["0/exp_avg"] == -step).all()
    return step


def forked(job: Callable[[], None]) -> int:
    """Run a job in a forked process that may kill itself; return its exit code."""
    child = os.fork()
    if child == 0:
        try:
            job()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_before(number: int) -> None:
    """SIGKILL this process before file operation number `number` (open, rename, create or remove)."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@pytest.mark.parametrize("before", (0, 1, 2), ids=("the first", "the second", "the third"))
def test_kill_before_any_file_operation_leaves_a_complete_checkpoint(before: int, tmp_path: Path) -> None:
    killed = number = 0
    while True:
        number += 1
        folder = tmp_path / str(number) / "last"
        for step in range(1, before + 1):
            save(folder, step)

        def job(folder: Path = folder, number: int = number) -> None:
            kill_before(number)
            save(folder, before + 1)

        if forked(job) == 0:
            break
        killed += 1
        assert newest_step(folder) in (before, before + 1)
        save(folder, before + 2)  # the next save works with whatever files are left
        assert newest_step(folder) == before + 2
    assert killed >= 15
    assert newest_step(folder) == before + 1


@pytest.mark.slow
def test_twenty_kills_at_random_times_during_a_save(tmp_path: Path) -> None:
    folder, size, draw = tmp_path / "last", 300_000, random.Random(0)
    step = killed_in_a_save = 0
    save(folder, step + 1, size)
    for _ in range(20):
        saved = checkpoint.newest(folder, weights(0, size))
        assert saved is not None
        checkpoint.move_to(saved, folder)  # as a resumed run does before its next save
        step = newest_step(folder, size)
        read_fd, write_fd = os.pipe()
        child = os.fork()
        if child == 0:
            for following in range(step + 1, step + 1000):
                os.write(write_fd, b"s")
                save(folder, following, size)
                os.write(write_fd, b"e")
            os._exit(0)
        os.close(write_fd)
        os.read(read_fd, 1)
        time.sleep(draw.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(read_fd, "rb") as pipe:
            events = b"s" + pipe.read()
        killed_in_a_save += events.endswith(b"s")
        finished = step + events.count(b"e")
        assert newest_step(folder, size) in (finished, finished + 1)
    assert killed_in_a_save >= 15


def test_files_are_synced_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, order = tmp_path / "run/checkpoints/last", []
    save(folder, 1)
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        order.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path}/run"))
        fsync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        order.append(f"rename {source.name} {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    save(folder, 2)
    new = "/checkpoints/last.new"
    assert order == [
        f"sync {new}/model.safetensors",
        f"sync {new}/optimizer.safetensors",
        f"sync {new}/state.json",
        f"sync {new}/manifest.json",
        f"sync {new}",
        "rename last last.old",
        "rename last.new last",
        "sync /checkpoints",
        "sync ",
    ]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        folder = {"first byte": 0, "a byte in the middle": len(content) // 2, "last byte": len(content) - 1}[how]
        content[folder] ^= 1
        path.write_bytes(content)


HOW = ("deleted", "truncated", "emptied", "first byte", "a byte in the middle", "last byte")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_named_and_previous_checkpoint_is_used(
    name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    save(folder, 2)
    damage(folder / name, how)
    assert newest_step(folder) == 1
    logged = capsys.readouterr().err
    assert logged.startswith("Skipping damaged checkpoint:") and str(folder / name) in logged

    shutil.rmtree(tmp_path / "last.old")
    with pytest.raises(UserError, match=r"No version of the checkpoint .* can be used") as refusal:
        newest_step(folder)
    assert str(folder / name) in str(refusal.value)


def test_altered_file_with_matching_manifest_must_fit_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1, size=999)
    with pytest.raises(UserError, match=r"a has shape \(999,\), expected \(1000,\)"):
        newest_step(folder, 1000)


def test_failed_save_keeps_previous_checkpoint_and_no_partial_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    monkeypatch.setattr(checkpoint, "sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save(folder, 2)
    assert newest_step(folder) == 1
    assert not (tmp_path / "last.new").exists()


def test_log_with_missing_or_changed_lines_is_rejected(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    log.write({"step": 2})
    mark = log.sync()
    log.write({"step": 3})
    log.close()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for changed, problem in ((whole[:5], "has lost lines"), (whole.replace("1", "7"), "was modified")):
        path.write_text(changed)
        with pytest.raises(UserError, match=problem):
            metrics_log.MetricsLog(path).rewind(*mark)
        assert path.read_text() == changed
    path.write_text(whole)
    again = metrics_log.MetricsLog(path)
    again.rewind(*mark)
    assert again.sync() == mark
    again.write({"step": 3})
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "manifest",
    (
        {"files": {"../../secret.safetensors": {"bytes": 1, "sha256": "0"}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}},
        {"files": {"a\0b": {"bytes": 1, "sha256": "0"}}},
        {"files": {"model.pt": {"bytes": 1, "sha256": "0"}}},
        {"files": {"x" * 10_000 + ".safetensors": {"bytes": 1, "sha256": "0"}}},
        {"files": {"more.safetensors": 5}},
        {"files": {"more.safetensors": {}}},
        {"files": []},
        {},
        [],
        None,
    ),
    ids=lambda manifest: json.dumps(manifest)[:40],
)
def test_hostile_manifest_is_rejected(manifest: object, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    own = json.loads((folder / "manifest.json").read_text())
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        manifest = {"files": {**own["files"], **manifest["files"]}}
    if isinstance(manifest, dict):
        manifest = {"format_version": own["format_version"], **manifest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        checkpoint.load(folder, weights(0))


def test_link_in_checkpoint_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        checkpoint.load(folder, weights(0))


@pytest.mark.parametrize("length", (0, 1, 2**24 + 1, 2**40, 2**63, 2**64 - 1))
def test_absurd_header_length_is_rejected(length: int, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(
        UserError,
        match=r"model\.safetensors (is not a complete safetensors file|has a header of [\d,]+ bytes; at most)",
    ):
        checkpoint.load(folder, weights(0))


@pytest.mark.parametrize(
    "shape", ([10**12, 10**12], [2**63], [-1], [1e300], ["x"], [[3]], None, "1000"), ids=lambda shape: str(shape)
)
def test_absurd_shape_is_rejected_before_allocation(shape: object, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4000]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4000))
    with pytest.raises(UserError):
        checkpoint.load(folder, weights(0))


def test_sparse_terabyte_file_is_rejected_immediately(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    with (folder / "optimizer.safetensors").open("r+b") as file:
        file.truncate(2**40)
    started = time.process_time()
    with pytest.raises(UserError, match="but a file in a checkpoint of this model has at most"):
        checkpoint.load(folder, weights(0))
    assert time.process_time() - started < 5
