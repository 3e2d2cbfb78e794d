"""The types of config keys, and the markers that these types carry.

`doc` and `Unit` appear in error messages. The other markers have docstrings below.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen, doc
from pydantic import AfterValidator, AllowInfNan, Field

MAX_COUNT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_LENGTH = 2**20  # tokens; the backbone's own limit is checked separately

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class NoEffect:
    """A marker: the key has no effect if `when` returns true for the value of the dotted key `other`."""

    other: str
    when: Callable[[Any], bool]


class Neutral:
    """A marker: the key cannot change a result, so configs that differ only in it describe the same run."""


class SeedKey:
    """A marker: the key is a seed, so runs that differ only in it belong to one group."""


class Passed:
    """A marker: the key is declared in the schema, and is also an argument of the section's constructor."""


class Copied:
    """A marker: other keys contain copies of the key's value, such as `optimizer.lr`, which is `${lr}` in YAML."""


@dataclass(frozen=True)
class AddedLater:
    """A marker: earlier versions did not have the key and behaved as with `value`.

    A key with this value is not part of a config's hashes, so the names of earlier runs stay valid. In the config of an
    earlier run, the key has this value.
    """

    value: Any


def without_controls(text: str) -> str:
    assert not CONTROLS.search(text)
    return text


Count = Annotated[int, Ge(1), Le(MAX_COUNT)]
Seed = Annotated[int, Ge(0), Le(MAX_SEED)]
Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[Finite, Gt(0)]
NonNegative = Annotated[Finite, Ge(0)]
Probability = Annotated[Finite, Ge(0), Lt(1)]
Fraction = Annotated[Finite, Gt(0), Lt(1)]
Name = Annotated[str, MinLen(1), AfterValidator(without_controls), doc("a name (not empty, no control characters)")]
FolderName = Annotated[
    str,
    Field(pattern=r"^\w[\w.+-]{0,99}$"),
    doc("a folder name: use up to 100 letters, digits, '.', '_', '+' and '-', and start with a letter, a digit or '_'"),
]
