"""The files and folders that a configuration names: what is missing or too small is known before it is loaded."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imdbcls.config.validate import look_up
from imdbcls.data.columns import request_of
from imdbcls.data.local_files import local_dataset, local_imdb
from imdbcls.data.tables import require_columns, require_table
from imdbcls.errors import UserError
from imdbcls.runs.untrusted import read_json
from imdbcls.runtime.model_files import local_model

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
        "imdbcls.models.backbone.load_backbone": require_model,
        "imdbcls.models.backbone.tiny_backbone": require_tiny,
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


def require_hub(config: Mapping[str, Any]) -> None:
    local_dataset(config["data"]["source"].get("path"))
