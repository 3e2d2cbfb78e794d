"""Decide whether `data.path` is a local file or folder, or a hub id, without heavy imports."""

import os
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub_ids import HUB_FORM, is_hub_id


def local_imdb(path: Any) -> Path | None:
    """Return the file or folder that `data.path` names, or None for a hub id; raise UserError for anything else."""
    if not isinstance(path, str) or not path:
        raise UserError(f"data.path={path} is neither the path of a file or folder nor a hub id.")
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        return Path(place)
    if os.path.isfile(place):
        if not place.endswith((".tar.gz", ".tgz")):
            raise UserError(f"data.path={path}: a file must be an archive such as aclImdb_v1.tar.gz (.tar.gz or .tgz).")
        return Path(place)
    if is_hub_id(path) and not place.endswith(".gz"):
        return None
    raise UserError(
        f"data.path={shown(path)} does not exist. Set it to a folder of Parquet files, the extracted aclImdb/, "
        f"aclImdb_v1.tar.gz or a hub id ({HUB_FORM.format('stanfordnlp/imdb')})."
    )


def local_dataset(path: Any) -> Path | None:
    """Return the folder that `data.path` of `data=hub` names, or None for a hub id; raise UserError otherwise."""
    place = os.path.expanduser(path) if isinstance(path, str) else ""
    if place and os.path.isdir(place):
        return Path(place)
    if not is_hub_id(path):
        raise UserError(
            f"data.path={shown(path)} is neither a folder nor a hub id ({HUB_FORM.format('stanfordnlp/imdb')}). For a "
            "single file, use data=files data.train=FILE."
        )
    return None
