"""Checkpoints of safetensors and JSON files. They are written atomically and verified before use.

A checkpoint is a folder with tensor files, `state.json` and `manifest.json`. The manifest is written last; it lists the
size and sha256 of each other file. A checkpoint is written to `<name>.new` and then renamed. The previous checkpoint is
kept as `<name>.old` until the next save. So after the first save, a complete checkpoint always exists, and `newest`
finds it.
"""

import json
import logging
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
from imdbcls.runs.format_version import CHECKPOINT, FORMAT_VERSION, read_versioned
from imdbcls.runs.untrusted import require_regular_file, sha256, tensor_shapes
from imdbcls.runtime.atomic import new_name, old_name, replacing_folder, sync

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
FILE_NAME = re.compile(r"[A-Za-z_]\w*\.safetensors|state\.json")
TENSOR_FILE_FACTOR = 4  # maximum size of a tensor file, as a multiple of the model's size; all optimizers need less


class CheckpointError(UserError):
    """Raised if a checkpoint cannot be used. The message contains the path and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its JSON state, and the named tensors of each file (keys: `model`, `optimizer`, …)."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint to `folder`, and keep the existing checkpoint as `<name>.old`.

    If the process is killed, or if the disk is full (OSError or SafetensorError), the existing checkpoint stays
    complete.
    """
    if not folder.exists():
        restore(folder)
    with replacing_folder(folder) as new:
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


def restore(folder: Path) -> None:
    """Rename the `.new` or `.old` checkpoint to `folder`, if a process was killed between the two renames of `save`."""
    for other in (new_name(folder), old_name(folder)):
        if (other / MANIFEST).exists():
            other.rename(folder)
            return


def move_to(saved: Checkpoint, folder: Path) -> None:
    """Rename a `.new` or `.old` checkpoint to `folder`, so that the next save does not delete it."""
    if saved.folder != folder:
        shutil.rmtree(folder, ignore_errors=True)
        saved.folder.rename(folder)


def remove_previous(folder: Path) -> None:
    """Delete the `.new` and `.old` checkpoints of `folder`."""
    for other in (new_name(folder), old_name(folder)):
        shutil.rmtree(other, ignore_errors=True)


def load(folder: Path, *models: Mapping[str, Tensor]) -> Checkpoint:
    """Verify a checkpoint completely, then read it.

    The tensors in `model.safetensors` must have the names, shapes and dtypes of one of `models`. Raise UserError if a
    file is missing, was changed, or does not fit the model; the message contains the path of the file or its folder.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is missing, or is not a folder.")
    files = read_versioned(folder / MANIFEST, CHECKPOINT).get("files")
    if not isinstance(files, dict) or STATE not in files or "model.safetensors" not in files:
        raise CheckpointError(f"{folder / MANIFEST} must list both {STATE} and model.safetensors, but does not.")
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name) or not isinstance(entry, dict):
            raise CheckpointError(f"{folder / MANIFEST} has an invalid entry: {name[:80]!r}.")
        require_regular_file(folder / name)
    model = matching_model(folder, models)
    largest = TENSOR_FILE_FACTOR * sum(tensor.nbytes for tensor in model.values()) + 2**20
    for name, entry in files.items():
        path, size = folder / name, (folder / name).stat().st_size
        if size > largest:
            raise CheckpointError(
                f"{path} has {size:,} bytes, but a file in a checkpoint of this model has at most {largest:,} bytes."
            )
        if size != entry.get("bytes") or sha256(path) != entry.get("sha256"):
            raise CheckpointError(
                f"{path} is damaged: its size or sha256 differs from its entry in {folder / MANIFEST}."
            )
    try:
        tensors = {Path(name).stem: load_file(folder / name) for name in files if name != STATE}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} contains a tensor file that cannot be read: {error}") from error
    for name, tensor in tensors["model"].items():
        if tensor.dtype != model[name].dtype:
            raise CheckpointError(
                f"{folder / 'model.safetensors'} does not fit the model: {name[:200]} is {tensor.dtype}, expected "
                f"{model[name].dtype}."
            )
    return Checkpoint(folder, tensors, read_versioned(folder / STATE, CHECKPOINT))


def matching_model(folder: Path, models: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the first of `models` whose names and shapes match `model.safetensors`, else raise CheckpointError."""
    path = folder / "model.safetensors"
    found = tensor_shapes(path)
    for model in models:
        expected = {name: tuple(tensor.shape) for name, tensor in model.items()}
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if not different:
            return model
    name = different[0]
    raise CheckpointError(
        f"{path} does not fit the model: {name[:200]} has shape {found.get(name)}, expected {expected.get(name)}."
    )


def require_resume_key(saved: Checkpoint, resume_key: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a value in `resume_key` differs in the checkpoint. The message lists the differences.

    `resume_key` contains the values that must be unchanged to resume a run (see `runs.identity.resume_key`).
    """
    before, now = flatten(saved.state.get("resume_key")), flatten(resume_key)
    different = [
        f"{key} is {before.get(key, 'absent')} in the checkpoint and {now.get(key, 'absent')} in this run"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, "absent") != now.get(key, "absent")
    ]
    if different:
        raise CheckpointError(
            f"{saved.folder} was saved by a different run: {'; '.join(different)}. Use the same values as "
            f"the checkpoint, or move {saved.folder.parent.parent} away to train again from the first step."
        )


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one mapping with dotted keys."""
    if not isinstance(value, Mapping):
        return {path or "resume_key": value}
    children = [flatten(child, f"{path}.{key}" if path else str(key)) for key, child in value.items()]
    return {key: leaf for child in children for key, leaf in child.items()}


def newest(
    folder: Path, *models: Mapping[str, Tensor], is_wanted: Callable[[Checkpoint], bool] = lambda found: True
) -> Checkpoint | None:
    """Return the newest complete checkpoint that fits one of `models` and that `is_wanted` accepts.

    Log each damaged checkpoint that is skipped, with the reason. Return None if no save was ever completed, or if
    `is_wanted` rejects every complete checkpoint. Raise CheckpointError if all existing checkpoints are damaged.
    """
    problems, is_unwanted = [], False
    for path in (new_name(folder), folder, old_name(folder)):
        if path.is_symlink() or path.exists():
            try:
                saved = load(path, *models)
            except UserError as error:
                problems.append(str(error))
                continue
            if not is_wanted(saved):
                is_unwanted = True
                continue
            log_skipped(problems)
            return saved
    if is_unwanted or all(problem.startswith(str(new_name(folder))) for problem in problems):
        log_skipped(problems)  # if only `.new` exists, the process was killed during its first save
        return None
    raise CheckpointError(
        f"No version of the checkpoint {folder} can be used: {' '.join(problems)} {remedy(folder.parent.parent)}"
    )


def remedy(run: Path) -> str:
    """Return a sentence, for error messages, on what to do if the weights are lost."""
    return f"Restore the checkpoint from a copy, or move {run} away and run its training command again."


def log_skipped(problems: Sequence[str]) -> None:
    for problem in problems:
        logger.info(f"Skipping damaged checkpoint: {problem}")
