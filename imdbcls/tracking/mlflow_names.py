"""Turn keys of the config and of `result.json`, which can contain names of classes and parts, into MLflow names."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

DIGEST_LENGTH = 8


def valid_names(keys: Iterable[str], max_length: int) -> dict[str, str]:
    """Map the keys of metrics or params to names that MLflow accepts. No two keys get the same name.

    `_` replaces each character that MLflow does not allow, `..` at the start of a path component, and a component that
    is empty or `.`. A name that several keys would get, or that has more than `max_length` characters, ends in the
    first digits of the key's SHA-256; of several keys with one name, a key that is already valid stays unchanged.
    """
    names = {key: _without_invalid(key) for key in keys}
    counts = Counter(names.values())

    def final(key: str, name: str) -> str:
        if len(name) <= max_length and (name == key or counts[name] == 1):
            return name
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LENGTH]
        return f"{name[: max_length - DIGEST_LENGTH - 1]}-{digest}"

    return {key: final(key, name) for key, name in names.items()}


def _without_invalid(key: str) -> str:
    components = re.sub(r"[^\w.\- /]", "_", key).split("/")
    return "/".join(re.sub(r"^(\.\.|\.?$)", "_", component) for component in components)
