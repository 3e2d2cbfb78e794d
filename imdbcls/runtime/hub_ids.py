"""Recognize hub ids. Only names of the form `owner/name` are passed to the Hugging Face hub.

A single word would be unsafe: `datasets.load_dataset("pandas")` runs a built-in loader that reads files in the working
directory. In some releases of `datasets`, the loader unpickles these files.
"""

import re
from typing import Any

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
NOT_OWNERS = (
    "buckets",
    "datasets",
    "models",
    "spaces",
)  # path prefixes on the hub, which the libraries treat specially
HUB_FORM = "owner/name, such as {}"


def is_hub_id(name: Any) -> bool:
    """Return whether a name has the form `owner/name` of the hub."""
    if not isinstance(name, str) or not HUB_ID.fullmatch(name):
        return False
    return name.partition("/")[0] not in NOT_OWNERS and ".." not in name and "--" not in name
