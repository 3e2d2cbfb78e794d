"""Text that is safe to write to a terminal, a log or a spreadsheet, wherever it comes from.

A terminal obeys control characters (ECMA-48: ESC, and 0x80 to 0x9f, which stand for ESC and a letter), and direction
controls reorder what it shows (Boucher and Anderson 2021, "Trojan Source"). They are written as Python's escapes,
`\\x1b` and `\\u202e`; all other text, in any script, stays as it is.
"""

import json
import re
from typing import Any

# C0 and C1 controls, soft hyphen, direction marks and controls, line and paragraph separators, invisible operators,
# halves of surrogate pairs, byte order mark, annotations, noncharacters (not allowed in XML), tags. The joiners U+200C
# and U+200D belong to words.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e007f"
)
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT = re.compile(rf"(?![\n\t])[{_UNSAFE}]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full width


def printable(text: str) -> str:
    """The text with its lines and tabs, and every other control character as an escape."""
    return _UNSAFE_IN_TEXT.sub(_escape, text)


def printable_line(text: str) -> str:
    """The text as one line: line ends become spaces, so that it cannot pass for several messages."""
    return _UNSAFE_IN_LINE.sub(_escape, re.sub(r"\s*[\r\n]\s*", " ", text.strip("\r\n")).replace("\t", " "))


def json_line(value: Any, ascii_only: bool = False) -> str:
    """JSON in one line that reads as Unicode, with control characters as JSON's own escapes: it decodes to `value`."""
    return _UNSAFE_IN_LINE.sub(_json_escape, json.dumps(value, ensure_ascii=ascii_only))


def json_pretty(value: Any) -> str:
    """The same over several lines. Raises ValueError for NaN and infinity, which are not JSON."""
    return _UNSAFE_IN_TEXT.sub(_json_escape, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def csv_cell(text: str) -> str:
    """A cell of text that is safe in a terminal and that a spreadsheet does not run (OWASP, CSV injection)."""
    return ("'" if text.lstrip(" ").startswith(_FORMULA) else "") + _UNSAFE_IN_LINE.sub(_escape, text)


def copied_cell(text: str) -> str:
    """A cell copied from the user's file: as `csv_cell`, but with its lines and tabs, and a number (-5) as it is."""
    is_formula = text.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return ("'" if is_formula else "") + printable(text)


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded: JSON may hold an unpaired surrogate, half of an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 100 else text[:100] + "…"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
