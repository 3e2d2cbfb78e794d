"""Refuse a tokenizer or a configuration that would crash, fill the memory, never end, or load code.

A `tokenizer.json` is a program of regular expressions and replacements. It runs in compiled code that no handler of
Python can stop, so it is tried in a separate process first. A file that passed is remembered by its hash.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdbcls.data import tokenizer_probe
from imdbcls.data.tokenizer_probe import MAX_ADDED_TOKENS
from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runs.untrusted import read_json, sha256
from imdbcls.runtime.cache import default_cache_dir

MAX_VOCABULARY_BYTES = 2**26  # the largest in use take 34 MB
MAX_SETTINGS_BYTES = 2**24
MAX_WALL_SECONDS = 300.0  # for a machine that has other work
SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = ("tokenizer.json", "vocab.*", "*vocab*.txt", "merges.txt", "*.model")
LIMITS = {
    -signal.SIGXCPU: f"takes more than {tokenizer_probe.MAX_SECONDS} seconds for a few short texts",
    -signal.SIGKILL: f"takes more than {tokenizer_probe.MAX_SECONDS} seconds, or more memory than there is",
    -signal.SIGABRT: f"takes more than {tokenizer_probe.MAX_BYTES / 2**30:.0f} GB of memory for a few short texts",
}


class TokenizerError(UserError):
    """A tokenizer that cannot be used, with the reason."""


def is_panic(error: BaseException) -> bool:
    """Whether compiled Rust code panicked: it is not a subclass of Exception and cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def panics_raised() -> Iterator[None]:
    """Raise a panic of the tokenizer's compiled code as TokenizerError."""
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            raise TokenizerError(f"The tokenizer fails on a text: {shown(str(error))}") from error
        raise


def require_sound_files(folder: Path) -> None:
    """Refuse (UserError) a model's folder by its configuration and its tokenizer. Nothing of them is loaded here.

    An adapter is refused because the library would load the model that its configuration names.
    """
    for name in SETTINGS:
        if (folder / name).exists():
            require_size(folder / name, MAX_SETTINGS_BYTES)
    for pattern in VOCABULARIES:
        for path in folder.glob(pattern):
            require_size(path, MAX_VOCABULARY_BYTES)
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which is not loaded. Merge it into its model once with "
            "peft: model.merge_and_unload().save_pretrained(FOLDER), and give backbone.path=FOLDER."
        )
    if (folder / "config.json").is_file():
        require_no_code(folder / "config.json", read_settings(folder / "config.json"))
    settings = read_settings(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    added = settings.get("added_tokens_decoder")
    if isinstance(added, dict | list) and len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'} adds {len(added):,} tokens; at most {MAX_ADDED_TOKENS:,} can be added."
        )
    if (folder / "tokenizer.json").is_file():
        require_sound_tokenizer(folder / "tokenizer.json")


def require_size(path: Path, max_bytes: int) -> None:
    """A link is followed: the hub's cache has nothing else."""
    size = path.stat().st_size
    if size > max_bytes:
        raise UserError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read.")


def read_settings(path: Path) -> dict[str, Any]:
    return read_json(path.resolve(), MAX_SETTINGS_BYTES)


def require_no_code(path: Path, settings: Any) -> None:
    """Refuse a `config.json` that names an attention kernel of the hub, or weights that other packages unpack."""
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise UserError(f"{path}: {shown(key)}={shown(value)} is refused: it would run code from the hub.")
        if key == "quantization_config" and value is not None:
            raise UserError(f"{path} describes quantized weights, which cannot be fine-tuned here; use the float ones.")
        require_no_code(path, value)


def require_sound_tokenizer(path: Path) -> None:
    """Try a `tokenizer.json` in another process; raises TokenizerError for one that fails, or needs too much."""
    marker = default_cache_dir() / "tokenizers" / sha256(path)[:40]
    if marker.is_file():
        return
    problem = problem_of(path)
    if problem is not None:
        raise TokenizerError(f"{path} cannot be used: {shown(problem)}.")
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def problem_of(path: Path) -> str | None:
    """Why a tokenizer is refused; None for a sound one."""
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    # -P: nothing is imported from the working directory, which may be untrusted.
    command = [sys.executable, "-P", tokenizer_probe.__file__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=MAX_WALL_SECONDS)
        answer = json.loads(done.stdout)
        return None if answer["error"] is None else str(answer["error"])
    except subprocess.TimeoutExpired:
        return "it takes minutes for a few short texts"
    except (ValueError, LookupError, TypeError):
        return f"it {LIMITS.get(done.returncode, 'ends the process that reads it')}"
