r"""Write values as text for messages, and escape untrusted text for terminals, logs and spreadsheets.

Terminals execute control characters (ECMA-48: ESC, and 0x80 to 0x9f, which are short for ESC and one more character).
Direction controls change the order in which text is displayed (Boucher and Anderson 2021, "Trojan Source"). Both kinds
of characters are replaced by Python escapes such as `\x1b` and `\u202e`. All other characters, in any script, are
unchanged.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_CLASSES = 4  # classes to list with their probabilities
# C0 and C1 controls, soft hyphen, direction marks and controls, line and paragraph separators, invisible operators,
# halves of surrogate pairs, byte order mark, annotations, noncharacters (not allowed in XML), tags. The joiners U+200C
# and U+200D are not escaped: words in several scripts, and emoji, need them.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e007f"
)
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT = re.compile(rf"(?![\n\t])[{_UNSAFE}]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full width


def printable(text: str) -> str:
    """Escape control characters, except newlines and tabs."""
    return _UNSAFE_IN_TEXT.sub(_escape, text)


def printable_line(text: str) -> str:
    """Return the text as one line: line ends and tabs become spaces, and control characters are escaped.

    Otherwise, one value with line ends could look like several messages.
    """
    return _UNSAFE_IN_LINE.sub(_escape, re.sub(r"\s*[\r\n]\s*", " ", text.strip("\r\n")).replace("\t", " "))


def json_line(value: Any, ascii_only: bool = False) -> str:
    """Return `value` as JSON on one line, with control characters as JSON escapes.

    With `ascii_only`, all non-ASCII characters become JSON escapes too.
    """
    return _UNSAFE_IN_LINE.sub(_json_escape, json.dumps(value, ensure_ascii=ascii_only))


def json_pretty(value: Any) -> str:
    """Return `value` as indented JSON, escaped as in `json_line`. Raise ValueError for NaN and infinity."""
    return _UNSAFE_IN_TEXT.sub(_json_escape, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def csv_cell(text: str) -> str:
    """Escape a CSV cell for terminals and spreadsheets. A formula gets a leading `'`, so that it is not executed.

    See OWASP, "CSV Injection".
    """
    return ("'" if text.lstrip(" ").startswith(_FORMULA) else "") + _UNSAFE_IN_LINE.sub(_escape, text)


def copied_cell(text: str) -> str:
    """Escape a cell copied from the user's file. Unlike `csv_cell`, keep newlines, tabs and numbers such as -5."""
    is_formula = text.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return ("'" if is_formula else "") + printable(text)


def is_unicode(text: str) -> bool:
    """Return whether a string can be encoded as UTF-8. A string from JSON may contain half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_percent(probabilities: Mapping[str, float]) -> str:
    """Return the most probable classes with their probabilities, such as "positive 97.3 %, negative 2.7 %"."""
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    named = [f"{name} {100 * probability:.1f} %" for name, probability in ranked[:MAX_CLASSES]]
    more = [f"{len(ranked) - MAX_CLASSES} more classes"] if len(ranked) > MAX_CLASSES else []
    return ", ".join([*named, *more])


def half_a_character(text: str) -> str:
    """Describe the first surrogate in a string that UTF-8 cannot encode, and how to correct it."""
    code = next(ord(character) for character in text if 0xD800 <= ord(character) <= 0xDFFF)
    return (
        f"U+{code:04X}, which is half of a character such as an emoji (a surrogate). The text was cut off or decoded "
        "wrongly: remove this half, or write the text again as UTF-8"
    )


def shown(value: Any) -> str:
    """Return a value as a string for messages, truncated to 100 characters and an ellipsis. None becomes `null`."""
    text = "null" if value is None else str(value)
    return text if len(text) <= 100 else text[:100] + "…"


def spelled(value: Any) -> str:
    """Return a value as a string, with booleans and null spelled as in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 run` or `1,200 runs`. The plural of the noun must end in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time such as `0.4 s`, `45 s`, `2.5 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 0.95 else f"{seconds:.0f} s"
    value, unit = (seconds / 60, "min") if seconds < 90 * 60 else (seconds / 3600, "h")
    return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
