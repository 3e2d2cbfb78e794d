"""Check the files and folders in a config before anything is loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imdbcls.config.schema import Config
from imdbcls.data.columns import request_of
from imdbcls.data.local_files import local_dataset, local_imdb
from imdbcls.data.table_paths import require_tables
from imdbcls.data.tables import require_columns
from imdbcls.errors import UserError
from imdbcls.runs.encoder_source import require_finished_run
from imdbcls.runs.untrusted import read_json
from imdbcls.runtime.model_files import architecture, local_model

# The maximum number of tokens that each hub encoder in conf/backbone accepts, from its config.json.
HUB_LIMITS = {
    "FacebookAI/roberta-base": 512,
    "FacebookAI/roberta-large": 512,
    "answerdotai/ModernBERT-base": 8192,
    "distilbert/distilroberta-base": 512,
    "google-bert/bert-base-uncased": 512,
    "microsoft/deberta-v3-base": 512,
}
TINY_LIMIT = 512
COLUMNS = ("text_column", "label_column", "id_column", "group_column", "part_column")
OPTIONAL = ("delimiter", "quoting", "encoding", "text_separator", "pair_column")
# Model types whose positions start at the padding id + 1.
_ROBERTA_TYPES = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "longformer",
    "mpnet",
)


def wrong_paths(config: Config) -> Iterator[str]:
    """Yield an error message for each missing or unusable file or folder, and for a max_length that is too large.

    A key with an invalid value is missing from the config. A check that needs such a key is skipped, because the
    invalid value is reported elsewhere.
    """
    for place, checks in CHECKS.items():
        try:
            section = config.backbone if place == "backbone" else config.data.source
            if section.target in checks:
                checks[section.target](config)
        except UserError as error:
            yield from str(error).splitlines()
        except (AttributeError, KeyError):
            continue


def require_model(config: Config) -> None:
    path, name = config.backbone.arguments["path"], config.backbone.name
    folder = local_model(path)
    if folder is not None and config.backbone.pretrained:
        require_finished_run(path, folder)
    limit = HUB_LIMITS.get(path) if folder is None else longest_document(folder)
    require_length(config.max_length, name, limit)


def require_tiny(config: Config) -> None:
    if config.backbone.pretrained:
        raise UserError("backbone=tiny has no pretrained weights: set backbone.pretrained=false.")
    require_length(config.max_length, config.backbone.name, TINY_LIMIT)


def require_length(max_length: Any, backbone: str, limit: int | None) -> None:
    """Raise UserError if max_length exceeds the encoder's limit; do nothing if the limit is unknown (None)."""
    if limit is not None and isinstance(max_length, int) and max_length > limit:
        raise UserError(
            f"max_length={max_length} is more than the {limit} tokens that backbone={backbone} accepts. Reduce "
            "max_length. With data.truncation=windows, longer documents are read in several windows."
        )


def longest_document(folder: Path) -> int | None:
    """Return the maximum number of tokens that an encoder accepts; None if its config.json does not state it."""
    try:
        config = read_json(architecture(folder) / "config.json")
    except UserError:
        return None  # loading the folder reports the reason
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in _ROBERTA_TYPES and isinstance(padding, int):
        return positions - padding - 1
    return positions


def require_files(config: Config) -> None:
    """Raise UserError for missing files, files used for two splits, and files without the requested columns."""
    source = config.data.source.arguments
    values = {f"data.{split}": source.get(split) for split in ("train", "validation", "test")}
    given = [
        (key, path)
        for key, value in values.items()
        if value is not None or key == "data.train"
        for path in require_tables(value, key)
    ]
    for key, path in given:
        first = next(other for other, earlier in given if earlier.samefile(path))
        if first != key:
            raise UserError(f"{key}={path} is the same file as {first}: use different documents for each split.")
    request = request_of(
        **{key: source[key] for key in COLUMNS}, **{key: source[key] for key in OPTIONAL if key in source}
    )
    mistakes = []
    for _, path in given:
        try:
            require_columns(path, request)
        except UserError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))


def require_imdb(config: Config) -> None:
    local_imdb(config.data.source.arguments.get("path"))


def require_hub(config: Config) -> None:
    local_dataset(config.data.source.arguments.get("path"))


Check = Callable[[Config], None]
# The checks, keyed by section and by `_target_`. None of them loads a model or a dataset.
CHECKS: dict[str, dict[str, Check]] = {
    "backbone": {
        "imdbcls.models.backbone.load_backbone": require_model,
        "imdbcls.models.backbone.tiny_backbone": require_tiny,
    },
    "data.source": {
        "imdbcls.data.files.read_files": require_files,
        "imdbcls.data.hub.read_hub": require_hub,
        "imdbcls.data.imdb.read_imdb": require_imdb,
    },
}
