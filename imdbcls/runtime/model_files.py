"""Locate the files of a backbone: in a local folder, in an installed package, or on the hub."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub_ids import HUB_FORM, is_hub_id

PACKAGE_PREFIX = "package:"
NO_WEIGHTS = "has no weights, because it was trained with checkpoint.keep=none or its checkpoints were deleted"


def local_model(path: Any) -> Path | None:
    """Return the local folder at `backbone.path`, or None for a hub id. Raise UserError if the path is neither."""
    if not isinstance(path, str) or not path:
        raise UserError(f"backbone.path={shown(path)} is not a path. Use a folder, package:NAME/FOLDER or a hub id.")
    if path.startswith(PACKAGE_PREFIX):
        return local_package(path)
    folder = os.path.expanduser(path)
    if os.path.isdir(folder):  # Path.is_dir raises errors for some strings, such as very long ones
        return Path(folder)
    if not is_hub_id(path):
        raise UserError(
            f"backbone.path={shown(path)} is not a folder. Use a local folder with config.json, or a hub id "
            f"({HUB_FORM.format('FacebookAI/roberta-base')})."
        )
    return None


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run with saved weights and the architecture of its encoder."""
    return weights_of_run(folder).is_file() and architecture(folder).joinpath("config.json").is_file()


def weights_of_run(folder: Path) -> Path:
    """Return the file with a run's best weights. The names of the encoder's tensors begin with `encoder.`."""
    return folder / "checkpoints" / "best" / "model.safetensors"


def architecture(folder: Path) -> Path:
    """Return the folder with a model's `config.json` and tokenizer. In a run folder, this is `backbone`."""
    is_plain = (folder / "config.json").exists() or not (folder / "backbone" / "config.json").is_file()
    return folder if is_plain else folder / "backbone"


def local_package(path: str) -> Path:
    """Return the folder that `package:NAME/FOLDER` names, without importing the package."""
    package, _, subfolder = path.removeprefix(PACKAGE_PREFIX).partition("/")
    # A dotted name is refused: to find a.b, find_spec imports a.
    is_package_name = package.isidentifier() and package != "__main__"
    if not is_package_name or Path(subfolder).is_absolute() or ".." in Path(subfolder).parts:
        raise UserError(
            f"backbone.path={path} is not of the form package:NAME/FOLDER, which names a folder in a Python package."
        )
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"backbone.path={path} needs the Python package {package}, which is not installed: "
            f"pip install {package.replace('_', '-')}."
        )
    folder = Path(spec.origin).parent / subfolder
    if not folder.is_dir():
        raise UserError(f"backbone.path={path}: the Python package {package} has no folder {subfolder}.")
    return folder
