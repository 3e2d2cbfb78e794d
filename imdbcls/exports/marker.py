"""The file that marks a folder as an export. Only a marked folder may be replaced or uploaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.exports import FORMATS
from imdbcls.printable import shown
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import EXPORT, FORMAT_VERSION, read_versioned
from imdbcls.runs.untrusted import require_no_links

MARKER = "imdbcls-export.json"


def write_marker(folder: Path, name: str, config_hash: Any) -> None:
    """Write the marker file of a complete export: its format `name`, the `config_hash` of its runs, and its files."""
    content = {
        FORMAT_VERSION: EXPORT,
        "format": name,
        "config_hash": config_hash,
        "files": sorted({*names_of(files_in(folder), folder), MARKER}),
    }
    (folder / MARKER).write_text(json_text(content, indent=2) + "\n", encoding="utf-8")


def read_marker(folder: Path) -> dict[str, Any]:
    """Return the content of an export's marker file. Raise UserError if the folder is not an export."""
    try:
        content = read_versioned(folder / MARKER, EXPORT)
        if content.get("format") not in FORMATS or not isinstance(content.get("files"), list):
            raise UserError(f"{folder / MARKER} is damaged.")
    except UserError as error:
        raise UserError(f"{folder} is not an export of imdbcls: {error} Choose another --output.") from error
    return content


def exported_files(folder: Path, name: str, config_hash: Any) -> list[Path]:
    """Return the files that the export of a run wrote. Other files in the folder are left out.

    Raise UserError if the folder contains links or lacks a file, or if it is an export of another run or format.
    """
    require_no_links(folder)
    content = read_marker(folder)
    if content["format"] != name or content.get("config_hash") != config_hash:
        raise UserError(
            f"{folder} is an export of another run, or in another format than {name}. Add --overwrite to replace it, "
            "or choose another --output."
        )
    paths = files_in(folder)
    listed = [each for each in content["files"] if isinstance(each, str)]
    if missing := sorted(set(listed) - set(names_of(paths, folder))):
        raise UserError(f"{folder} is incomplete: {shown(missing[0])} is missing. Add --overwrite to export again.")
    return [path for path in paths if path.relative_to(folder).as_posix() in listed]


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def names_of(paths: Iterable[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]
