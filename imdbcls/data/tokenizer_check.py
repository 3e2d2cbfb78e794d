"""Refuse model files whose tokenizer or config would crash, exhaust memory, never finish, or load code.

A `tokenizer.json` is a program of regular expressions and replacements. It runs in compiled code that Python cannot
interrupt, so it is first tried in a child process. The hash of a file that passes is stored, and the file is not tried
again.
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

MAX_VOCABULARY_BYTES = 2**26  # the largest common vocabularies take 34 MB
MAX_SETTINGS_BYTES = 2**24
MAX_WALL_SECONDS = 300.0  # much more than the limit on CPU time, for a busy machine
SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = ("tokenizer.json", "vocab.*", "*vocab*.txt", "merges.txt", "*.model")
LIMITS = {
    -signal.SIGXCPU: f"takes more than {tokenizer_probe.MAX_SECONDS} seconds for a few short texts",
    -signal.SIGKILL: f"takes more than {tokenizer_probe.MAX_SECONDS} seconds, or more than the available memory",
    -signal.SIGABRT: f"takes more than {tokenizer_probe.MAX_BYTES / 2**30:.0f} GB of memory for a few short texts",
}


class TokenizerError(UserError):
    """The error for a tokenizer that cannot be used."""


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of compiled Rust code, whose class cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def panics_raised() -> Iterator[None]:
    """Convert a panic in the tokenizer's compiled code to TokenizerError."""
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            raise TokenizerError(f"The tokenizer crashes: {shown(str(error))}") from error
        raise


def require_sound_files(folder: Path) -> None:
    """Raise UserError if a model folder's config or tokenizer is unsafe, without loading either in this process.

    An adapter is refused because transformers would also load the model that the adapter's config names.
    """
    for name in SETTINGS:
        if (folder / name).exists():
            require_size(folder / name, MAX_SETTINGS_BYTES)
    for pattern in VOCABULARIES:
        for path in folder.glob(pattern):
            require_size(path, MAX_VOCABULARY_BYTES)
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} contains an adapter (adapter_config.json), which is not supported. Merge the adapter into its "
            "model with peft (model.merge_and_unload().save_pretrained(FOLDER)), and set backbone.path=FOLDER."
        )
    if (folder / "config.json").is_file():
        require_no_code(folder / "config.json", read_settings(folder / "config.json"))
    settings = read_settings(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    added = settings.get("added_tokens_decoder")
    if isinstance(added, dict | list) and len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'} adds {len(added):,} tokens; at most {MAX_ADDED_TOKENS:,} are allowed. "
            "Choose another backbone."
        )
    if (folder / "tokenizer.json").is_file():
        require_sound_tokenizer(folder / "tokenizer.json")


def require_size(path: Path, max_bytes: int) -> None:
    """Raise UserError for a file of more than `max_bytes`; follow links, since the hub's cache consists of links."""
    size = path.stat().st_size
    if size > max_bytes:
        raise UserError(f"{path} has {size:,} bytes; at most {max_bytes:,} are allowed. Choose another backbone.")


def read_settings(path: Path) -> dict[str, Any]:
    return read_json(path.resolve(), MAX_SETTINGS_BYTES)


def require_no_code(path: Path, settings: Any) -> None:
    """Raise UserError if a `config.json` names an attention kernel from the hub or describes quantized weights."""
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise UserError(
                f"{path}: {shown(key)}={shown(value)} is refused, because it would run code from the hub. Remove the "
                "key, or choose another backbone."
            )
        if key == "quantization_config" and value is not None:
            raise UserError(f"{path} describes quantized weights, which cannot be fine-tuned; use the float weights.")
        require_no_code(path, value)


def require_sound_tokenizer(path: Path) -> None:
    """Try a `tokenizer.json` in a child process; raise TokenizerError if it fails or needs too much time or memory."""
    marker = default_cache_dir() / "tokenizers" / sha256(path)[:40]
    if marker.is_file():
        return
    problem = problem_of(path)
    if problem is not None:
        raise TokenizerError(f"{path} cannot be used: {shown(problem)}. Choose another backbone.")
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def problem_of(path: Path) -> str | None:
    """Return the reason for refusing a tokenizer; None if it can be used."""
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    # -P: import nothing from the working directory, which may be untrusted.
    command = [sys.executable, "-P", tokenizer_probe.__file__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=MAX_WALL_SECONDS)
        answer = json.loads(done.stdout)
        return None if answer["error"] is None else str(answer["error"])
    except subprocess.TimeoutExpired:
        return "it takes minutes for a few short texts"
    except (ValueError, LookupError, TypeError):
        return f"it {LIMITS.get(done.returncode, 'crashes the process that reads it')}"
