"""Read untrusted files: with a size limit, without following links, and without resolving interpolations in them.

All functions except `sha256` raise UserError with the file and the reason. The module has no heavy imports.
"""

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from imdbcls.errors import UserError

MAX_CONFIG_BYTES = 2**16  # a config has about 2 kB, and parsing YAML is slow
MAX_CONFIG_DEPTH = 32
MAX_CONFIG_VALUES = 10_000
MAX_JSON_BYTES = 2**24
# The limit for the header of a safetensors file. A large encoder has about 100 kB. Parsing 100 MB takes 20 s.
MAX_HEADER_BYTES = 2**24
MAX_FILES = 10_000  # largest number of files in a run folder
MAX_ID_CHARACTERS = 200  # limit for a document's id: long ids would let a small predictions file expand to gigabytes


def require_regular_file(path: Path, max_bytes: int | None = None) -> None:
    """Require that `path` is a regular file of at most `max_bytes`, and not a symbolic link."""
    try:
        status = path.lstat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing.") from error
    if not stat.S_ISREG(status.st_mode):
        problem = "a symbolic link, which is not allowed" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise UserError(f"{path} is {problem}.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UserError(f"{path} has {status.st_size:,} bytes; at most {max_bytes:,} are allowed.")


def require_no_links(folder: Path) -> None:
    """Require a folder without symbolic links, devices and pipes, so that no path in it leads outside."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    seen = 0
    for parent, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > MAX_FILES:
            raise UserError(f"{folder} contains more than {MAX_FILES:,} files, so it is not a run folder.")
        for name in folders + files:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise UserError(f"{path} is {kind}. A run folder may contain only files and folders.")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a regular file of at most `max_bytes`."""
    require_regular_file(path, max_bytes)
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise UserError(f"The contents of {path} are nested too deeply to be read.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not contain a JSON object.")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Refuse aliases, tags and interpolations, because runs never write them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    require_regular_file(path, MAX_CONFIG_BYTES)
    try:
        text = path.read_text(encoding="utf-8")
        require_plain_yaml(path, text)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except AssertionError as error:  # from OmegaConf, for a file with a single number
        raise UserError(f"{path} does not contain a config.") from error
    except RecursionError as error:
        raise UserError(f"The contents of {path} are nested too deeply to be read.") from error
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not contain a config.")
    return {str(key): value for key, value in content.items()}


def require_bounded_yaml(path: Path) -> None:
    """Refuse a YAML file that is too large, is nested too deeply, or expands to too many values.

    Only parser events are read, and no values are built. An alias counts as all the values that it refers to. A file
    that is not valid YAML passes this check, because the code that loads the file reports the error.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_CONFIG_BYTES:,} are allowed.")
    sizes: dict[str, int] = {}  # number of values, keyed by anchor
    open_nodes: list[tuple[str | None, int]] = []  # anchor of each open collection, and number of values before it
    num_values = 0
    try:
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            anchor = getattr(event, "anchor", None)
            if isinstance(event, yaml.AliasEvent):
                num_values += sizes.get(str(anchor), 0)
            elif isinstance(event, yaml.ScalarEvent):
                num_values += 1
                if anchor is not None:
                    sizes[anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((anchor, num_values))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = num_values - before + 1
            if num_values > MAX_CONFIG_VALUES or len(open_nodes) > MAX_CONFIG_DEPTH:
                raise UserError(
                    f"{path} has more than {MAX_CONFIG_VALUES:,} values after expanding its aliases, or is nested "
                    f"more than {MAX_CONFIG_DEPTH} levels deep."
                )
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def require_plain_yaml(path: Path, text: str) -> None:
    """Refuse aliases, tags, interpolations and deep nesting in YAML, before any value is built from it.

    With aliases, a short text could expand to very large values.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(
                f"{path} uses a YAML anchor or alias (line {event.start_mark.line + 1}), which is not allowed."
            )
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise UserError(
                f"{path} uses the YAML tag {event.tag} (line {event.start_mark.line + 1}), which is not allowed."
            )
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise UserError(
                f"{path} contains an interpolation (line {event.start_mark.line + 1}), which is not allowed."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_CONFIG_DEPTH:
            raise UserError(f"{path} is nested more than {MAX_CONFIG_DEPTH} levels deep.")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Map the names of the tensors in a safetensors file to their shapes, without reading any tensor.

    safetensors checks that the tensors fill the file without gaps or overlaps, and that their sizes match their shapes
    and types. Raise UserError if that check fails, if the header is too long, or if the tensors in float32 need more
    memory than this machine has.
    """
    from safetensors import SafetensorError, safe_open

    require_regular_file(path)
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise UserError(f"{path} has a header of {header_bytes:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed.")
        with safe_open(path, "numpy") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file: {error}.") from error
    need = max(path.stat().st_size, 4 * sum(math.prod(shape) for shape in shapes.values()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory:
        raise UserError(f"{path} needs {need / 1e9:,.1f} GB of memory, but this machine has {memory / 1e9:,.1f} GB.")
    return shapes


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
