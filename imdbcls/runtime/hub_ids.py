"""Which names reach the Hugging Face hub: `owner/name` only.

A single word is never passed on: `datasets.load_dataset("pandas")` uses a built-in loader of that name, which reads
files of the working directory, and some releases unpickle them.
"""

import re
from typing import Any

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
NOT_OWNERS = ("buckets", "datasets", "models", "spaces")  # of URLs, and taken for something else by the libraries
HUB_FORM = "owner/name, such as {}"


def is_hub_id(name: Any) -> bool:
    """Whether a name is a possible `owner/name` of the hub."""
    if not isinstance(name, str) or not HUB_ID.fullmatch(name):
        return False
    return name.partition("/")[0] not in NOT_OWNERS and ".." not in name and "--" not in name
