"""Checkpoints: safetensors and JSON, written whole or not at all, verified before anything is read from them.

A checkpoint is a folder of tensor files, `state.json` and, written last, `manifest.json` with their sizes and sha256.
It is written beside its place and renamed into it: a reader finds the old one or the new one, never a mixture.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imdbcls.console import say
from imdbcls.errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"
MAX_JSON_BYTES = 64 * 2**20


class CheckpointError(UserError):
    """A checkpoint that may not be used, with the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `tensors` by file stem (`model`, `optimizer`), and the JSON state."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one at `folder`; a kill at any moment leaves one of the two whole."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for stem, named_tensors in tensors.items():
        save_file({name: tensor.contiguous() for name, tensor in named_tensors.items()}, new / f"{stem}.safetensors")
    (new / STATE).write_text(json.dumps(state), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(new.iterdir())}
    for name in files:
        sync(new / name)
    (new / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    sync(new / MANIFEST)
    sync(new)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> Checkpoint:
    """Verify a checkpoint completely, then read it; CheckpointError names the file that is missing or altered."""
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is no checkpoint folder.")
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{folder / MANIFEST} lists no files.")
    for name, entry in files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise CheckpointError(f"{path} is missing, or is no plain file of this checkpoint.")
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            raise CheckpointError(f"{path} is not the file that was saved: its size or sha256 differs from {MANIFEST}.")
    try:
        tensors = {Path(name).stem: load_file(folder / name) for name in files if name.endswith(".safetensors")}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder} holds an unreadable tensor file: {error}") from error
    return Checkpoint(folder, tensors, read_json(folder / STATE))


def require_same_tensors(saved: Checkpoint, stem: str, expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the tensors have the expected names and shapes."""
    found = {name: tuple(tensor.shape) for name, tensor in saved.tensors.get(stem, {}).items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{saved.folder / stem}.safetensors does not fit the model: {name} has shape {found.get(name)}, "
                f"expected is {wanted.get(name)}."
            )


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in a place or, after a kill during `save`, beside it; says which ones it passes over.

    Returns None where none was ever saved; raises CheckpointError where there are some and none of them is whole.
    """
    problems = []
    for path in (folder.with_name(folder.name + ".new"), folder, folder.with_name(folder.name + ".old")):
        if not path.exists():
            continue
        try:
            return load(path)
        except CheckpointError as error:
            problems.append(str(error))
            if path.name.endswith(".new"):  # begun and not finished: what it was to replace is still there
                problems.pop()
            else:
                say(f"Passed over: {error}")
    if problems:
        raise CheckpointError(f"No checkpoint in {folder.parent} can be used. {problems[0]}")
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size; raises CheckpointError."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is a link or larger than {MAX_JSON_BYTES >> 20} MiB.")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return content


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the operating system write a file's or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
