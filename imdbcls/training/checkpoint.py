"""Checkpoints: safetensors and JSON, written whole or not at all, verified before anything is read from them.

A checkpoint is a folder of tensor files, `state.json` and, written last, `manifest.json` with their sizes and sha256.
It is written next to its place and renamed into it. The previous one stays next to it until the next save: there is a
whole one at every moment, and `newest` finds it.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imdbcls.errors import UserError
from imdbcls.runs.files import sync
from imdbcls.runs.format_version import CHECKPOINT, FORMAT_VERSION, read_versioned
from imdbcls.runs.untrusted import require_plain, sha256, tensor_shapes
from imdbcls.runtime.console import say

MANIFEST = "manifest.json"
STATE = "state.json"
FILE_NAME = re.compile(r"[A-Za-z_]\w*\.safetensors|state\.json")
TENSOR_FILE_FACTOR = 4  # no optimizer here keeps more per weight than this many numbers


class CheckpointError(UserError):
    """A checkpoint that may not be used, with the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `tensors` by file stem (`model`, `optimizer`), and the JSON state."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one at `folder`, which stays beside it as `<name>.old`.

    A kill at any moment, and a full disk (OSError or SafetensorError), leave the old one or the new one whole.
    """
    new, old = beside(folder, "new"), beside(folder, "old")
    if not folder.exists():
        restore(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # now, so that there is never room needed for three
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        for stem, named_tensors in tensors.items():
            contiguous = {name: tensor.contiguous() for name, tensor in named_tensors.items()}
            save_file(contiguous, new / f"{stem}.safetensors")
        (new / STATE).write_text(json.dumps({FORMAT_VERSION: CHECKPOINT, **state}), encoding="utf-8")
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(new.iterdir())}
        for name in files:
            sync(new / name)
        manifest = {FORMAT_VERSION: CHECKPOINT, "files": files}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        sync(new / MANIFEST)
        sync(new)
    except (OSError, SafetensorError):
        shutil.rmtree(new, ignore_errors=True)  # half a checkpoint only takes the room that is lacking
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    sync(folder.parent.parent)  # which learnt of folder.parent with the first checkpoint


def beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def restore(folder: Path) -> None:
    """Put a checkpoint back in its place that a kill between the two renames of `save` left beside it."""
    for suffix in ("new", "old"):
        if (beside(folder, suffix) / MANIFEST).exists():
            beside(folder, suffix).rename(folder)
            return


def put_back(saved: Checkpoint, folder: Path) -> None:
    """Have a checkpoint that was found beside its place lie in it, where the next save keeps it."""
    if saved.folder != folder:
        shutil.rmtree(folder, ignore_errors=True)
        saved.folder.rename(folder)


def forget_previous(folder: Path) -> None:
    """Remove what lies beside a checkpoint, once it is needed no more."""
    for suffix in ("new", "old"):
        shutil.rmtree(beside(folder, suffix), ignore_errors=True)


def load(folder: Path, *models: Mapping[str, Tensor]) -> Checkpoint:
    """Verify a checkpoint completely, then read it; UserError names the file that is missing or altered.

    The file `model` must have the tensors of one of `models`: what fits none is refused before it is read.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is missing, or is no folder.")
    files = read_versioned(folder / MANIFEST, CHECKPOINT).get("files")
    if not isinstance(files, dict) or STATE not in files or "model.safetensors" not in files:
        raise CheckpointError(f"{folder / MANIFEST} does not list a checkpoint's files.")
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name) or not isinstance(entry, dict):
            raise CheckpointError(f"{folder / MANIFEST} lists {name[:80]!r}, which is no file of a checkpoint.")
        require_plain(folder / name)
    model = fitting(folder, models)
    largest = TENSOR_FILE_FACTOR * sum(tensor.nbytes for tensor in model.values()) + 2**20
    for name, entry in files.items():
        path, size = folder / name, (folder / name).stat().st_size
        if size > largest:
            raise CheckpointError(f"{path} has {size:,} bytes, more than a checkpoint of this model can need.")
        if size != entry.get("bytes") or sha256(path) != entry.get("sha256"):
            raise CheckpointError(f"{path} is not the file that {folder / MANIFEST} lists: size or sha256 differ.")
    try:
        tensors = {Path(name).stem: load_file(folder / name) for name in files if name != STATE}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} holds an unreadable tensor file: {error}") from error
    for name, tensor in tensors["model"].items():
        if tensor.dtype != model[name].dtype:
            raise CheckpointError(
                f"{folder / 'model.safetensors'} does not fit the model: {name[:200]} is {tensor.dtype}, expected "
                f"{model[name].dtype}."
            )
    return Checkpoint(folder, tensors, read_versioned(folder / STATE, CHECKPOINT))


def fitting(folder: Path, models: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The one of `models` whose tensors the model's file announces, with their shapes; CheckpointError for none."""
    path = folder / "model.safetensors"
    found = tensor_shapes(path)
    for model in models:
        wanted = {name: tuple(tensor.shape) for name, tensor in model.items()}
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if not different:
            return model
    name = different[0]
    raise CheckpointError(
        f"{path} does not fit the model: {name[:200]} has shape {found.get(name)}, expected {wanted.get(name)}."
    )


def require_identity(saved: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Raise CheckpointError, key by key, where a checkpoint was not saved by a run of the same identity."""
    before, now = flat(saved.state.get("identity")), flat(identity)
    different = [
        f"{key} is {before.get(key, 'absent')} there and {now.get(key, 'absent')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, "absent") != now.get(key, "absent")
    ]
    if different:
        raise CheckpointError(f"{saved.folder} was saved by another run: {'; '.join(different)}.")


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    if not isinstance(value, Mapping):
        return {path or "identity": value}
    children = [flat(child, f"{path}.{key}" if path else str(key)) for key, child in value.items()]
    return {key: leaf for child in children for key, leaf in child.items()}


def newest(
    folder: Path, *models: Mapping[str, Tensor], is_wanted: Callable[[Checkpoint], bool] = lambda found: True
) -> Checkpoint | None:
    """The newest whole checkpoint that is wanted, of one of these models, in a place or beside it.

    Logs which damaged ones it skips, and why. Returns None if none was ever saved, or none that is requested;
    raises CheckpointError where there are some and none of them is whole.
    """
    problems, is_unwanted = [], False
    for path in (beside(folder, "new"), folder, beside(folder, "old")):
        if path.is_symlink() or path.exists():
            try:
                saved = load(path, *models)
            except UserError as error:
                problems.append(str(error))
                continue
            if not is_wanted(saved):
                is_unwanted = True
                continue
            say_passed_over(problems)
            return saved
    if is_unwanted or all(problem.startswith(str(beside(folder, "new"))) for problem in problems):
        say_passed_over(problems)  # a kill during the very first save
        return None
    raise CheckpointError(
        f"No checkpoint in {folder.parent} can be used: {' '.join(problems)} {remedy(folder.parent.parent)}"
    )


def remedy(run: Path) -> str:
    """Return what to do about lost weights."""
    return f"Restore the checkpoint from a copy, or move {run} away and run its training command again."


def say_passed_over(problems: Sequence[str]) -> None:
    for problem in problems:
        say(f"Skipping damaged checkpoint: {problem}")
