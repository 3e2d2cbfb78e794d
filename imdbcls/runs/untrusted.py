"""Reading files that may come from a stranger: bounded in size, never through a link, and nothing in them is resolved.

Everything here raises UserError with the file and the reason. It imports nothing heavy.
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

MAX_CONFIG_BYTES = 2**16  # a configuration is some 2 kB; parsing YAML is slow
MAX_CONFIG_DEPTH = 32
MAX_CONFIG_VALUES = 10_000
MAX_JSON_BYTES = 2**24
MAX_HEADER_BYTES = 2**24  # the names and shapes of a tensor file; a large encoder's take 100 kB
MAX_FILES = 10_000  # in a run folder
MAX_ID_CHARACTERS = 200  # of a document: a small file of predictions cannot expand to gigabytes
# Of safetensors' types, those that weights and their buffers have.
DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def require_plain(path: Path, max_bytes: int | None = None) -> None:
    """Refuse what is missing, a link, no regular file, or larger than it can honestly be."""
    try:
        status = path.lstat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing.") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"{path} is {'a link' if stat.S_ISLNK(status.st_mode) else 'no regular file'}, which is refused."
        )
    if max_bytes is not None and status.st_size > max_bytes:
        raise UserError(f"{path} has {status.st_size:,} bytes; at most {max_bytes:,} are read.")


def require_no_links(folder: Path) -> None:
    """Refuse a folder that holds a symbolic link, a device or a pipe anywhere below it: what is read lies inside it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.")
    seen = 0
    for parent, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > MAX_FILES:
            raise UserError(f"{folder} holds more than {MAX_FILES:,} files, and so is no run's.")
        for name in folders + files:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise UserError(f"{path} is {kind}, which is refused in a run folder.")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a plain file."""
    require_plain(path, max_bytes)
    try:
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be read.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping of plain values from a YAML file. Aliases, tags and interpolations are refused: a run writes none."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    require_plain(path, MAX_CONFIG_BYTES)
    try:
        text = path.read_text(encoding="utf-8")
        require_plain_yaml(path, text)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be read.") from error
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no configuration.")
    return {str(key): value for key, value in content.items()}


def require_bounded_yaml(path: Path) -> None:
    """Refuse a YAML file that is too large, nested too deeply, or whose aliases expand to too many values.

    Nothing is built: an alias counts as many values as its anchor has. A file that is not YAML is left to its reader.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_CONFIG_BYTES:,} are read.")
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of each, and the number of values before it
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
                    f"{path} has more than {MAX_CONFIG_VALUES:,} values, those of its aliases included, or is nested "
                    f"more than {MAX_CONFIG_DEPTH} deep."
                )
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def require_plain_yaml(path: Path, text: str) -> None:
    """Look at the text event by event, before anything is built from it that could be larger than the text."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"{path} uses a YAML alias (line {event.start_mark.line + 1}), which is refused.")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise UserError(
                f"{path} uses the YAML tag {event.tag} (line {event.start_mark.line + 1}), which is refused."
            )
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise UserError(
                f"{path} holds an interpolation (line {event.start_mark.line + 1}), which is never resolved."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_CONFIG_DEPTH:
            raise UserError(f"{path} is nested more than {MAX_CONFIG_DEPTH} levels deep.")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that a safetensors file announces, by name, without reading a tensor.

    Raises UserError for a file that is incomplete, whose tensors do not fill it one after the other, or that is larger
    than this machine's memory: a model of these shapes then needs no more memory than the file's size.
    """
    require_plain(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise UserError(f"{path} is not a tensor file: its header would have {length:,} bytes.")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        shapes = {str(name): tuple(int(number) for number in entry["shape"]) for name, entry in header.items()}
        places = sorted(
            (*map(int, entry["data_offsets"]), num_bytes(entry["dtype"], shapes[name]))
            for name, entry in header.items()
        )
    except UserError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is not a tensor file: its header cannot be read.") from error
    end = 0
    for start, stop, needed in places:
        if start != end or stop - start != needed:
            raise UserError(f"{path} is not a tensor file: its tensors overlap, leave gaps or have other sizes.")
        end = stop
    if end != size - 8 - length:
        raise UserError(
            f"{path} is incomplete: its tensors need {end:,} bytes, and it has {size - 8 - length:,} for them."
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if end > memory:
        raise UserError(f"{path} needs {end / 1e9:,.1f} GB of memory; this machine has {memory / 1e9:,.1f} GB.")
    return shapes


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Of a tensor in a safetensors file. Raises LookupError for a type that no weights here have."""
    if any(number < 0 for number in shape):
        raise LookupError(f"a shape of {shape}")
    return DTYPE_BYTES[dtype] * math.prod(shape)


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
