"""Quote an override so that Hydra's grammar can read it: `data.train=día.csv` becomes `data.train="día.csv"`.

Outside quotes, the grammar accepts only ASCII letters, digits and a few other characters. A value that the grammar can
read is not changed.
"""

import json
import re
import shlex
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

_OPEN, _CLOSE = "([{", ")]}"
_FUNCTION = re.compile(r"(choice|sort|shuffle|tag|str|int|float|bool|glob)\s*\((.*)\)", re.DOTALL)
_KEYWORD = re.compile(r"(\w+)\s*=(.*)", re.DOTALL)
# Keys whose value is a mapping from class names. A class name can be any string, but the grammar cannot quote the keys
# of a mapping.
MAPPINGS_OF_LABELS = ("loss.class_weights",)
_NULL_KEY = re.compile(r"[{,]\s*null\s*:", re.IGNORECASE)  # the grammar accepts a null key, OmegaConf does not


def readable(text: str) -> str:
    """Return an equivalent override that Hydra can read, or the text unchanged if there is none."""
    key, _, value = text.partition("=")
    maps_labels = key.lstrip("+~") in MAPPINGS_OF_LABELS
    if "=" not in text or (is_readable(text) and not (maps_labels and _NULL_KEY.search(value))):
        return text
    items = split(value)
    try:
        if maps_labels:
            written = ",".join(_mapping(item) or _quoted(item) for item in items) if items else _string(value)
        else:
            written = ",".join(map(_quoted, items)) if items else value
    except RecursionError:  # hundreds of nested brackets
        written = _string(value)
    changed = f"{key}={written}"
    return changed if is_readable(changed) else text


def as_one_value(text: str) -> str:
    """Return the override, quoted for the shell, with everything after the equals sign as one string."""
    key, _, value = text.partition("=")
    return shlex.quote(f"{key}={_string(value)}")


@cache
def is_readable(text: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([text])
    except (HydraException, RecursionError, ValueError):  # ValueError: a number with too many digits for Python
        return False
    return True


def _quoted(item: str) -> str:
    """Return a list, mapping, function call or single value with quotes where the grammar needs them."""
    item = item.strip()
    if not item or is_readable(f"k={item}"):
        return item
    inner = split(item[1:-1])
    if item[0] == "[" and item[-1] == "]" and inner is not None:
        return f"[{','.join(map(_quoted, inner))}]"
    if item[0] == "{" and item[-1] == "}" and inner is not None:
        pairs = [_pair(each) for each in inner]
        return "{" + ",".join(f"{key}:{_quoted(value)}" for key, value in pairs) + "}"
    call = _FUNCTION.fullmatch(item)
    arguments = split(call[2]) if call else None
    if call and arguments is not None:
        return f"{call[1]}({','.join(map(_argument, arguments))})"
    return _string(item)


def _argument(item: str) -> str:
    keyword = _KEYWORD.fullmatch(item.strip())
    return f"{keyword[1]}={_quoted(keyword[2])}" if keyword else _quoted(item)


def _string(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _mapping(item: str) -> str | None:
    """Return a mapping as a quoted JSON object if the grammar cannot read its keys; None otherwise."""
    item = item.strip()
    plain = is_readable(f"k={item}") and not _NULL_KEY.search(item)
    if plain or not (item.startswith("{") and item.endswith("}")):
        return None
    pairs = [_pair(each) for each in split(item[1:-1]) or ()]
    return _string(json.dumps({_unquoted(key): _number(value) for key, value in pairs}, ensure_ascii=False))


def _pair(item: str) -> tuple[str, str]:
    """Split an entry of a mapping into key and value at its first colon outside quotes."""
    colon = next((index for index, sign in _outside_quotes(item) if sign == ":"), len(item))
    return item[:colon].strip(), item[colon + 1 :].strip()


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def split(text: str) -> list[str] | None:
    """Split a string at the commas outside brackets and quotes; return None if the brackets do not match.

    An apostrophe within a word (o'neil) does not open a quote.
    """
    expected: list[str] = []
    start, parts = 0, []
    for index, sign in _outside_quotes(text):
        if sign in _OPEN:
            expected.append(_CLOSE[_OPEN.index(sign)])
        elif sign in _CLOSE and (not expected or expected.pop() != sign):
            return None
        elif sign == "," and not expected:
            parts.append(text[start:index])
            start = index + 1
    return None if expected else [*parts, text[start:]]


def _outside_quotes(text: str) -> list[tuple[int, str]]:
    """Return the characters outside quotes with their indices. A quote opens only at the beginning of a value."""
    found, quote, index = [], "", 0
    while index < len(text):
        sign = text[index]
        if quote:
            if sign == "\\":
                index += 1
            elif sign == quote:
                quote = ""
        else:
            begins = not text[:index].strip() or text[:index].rstrip()[-1] in "([{,:="
            if sign in "'\"" and begins and sign in text[index + 1 :]:
                quote = sign
            else:
                found.append((index, sign))
        index += 1
    return found
