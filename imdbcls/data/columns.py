"""Find the requested columns in a file, and describe the missing columns."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import doc

from imdbcls.errors import UserError

AUTO = "auto"
Delimiter = Literal["auto", "comma", "semicolon", "tab", "pipe"]
Quoting = Literal["auto", "standard", "none"]
Spelling = Literal["key", "option", "argument"]
Encoding = Annotated[str, doc("auto or the name of an encoding, such as utf-8, latin-1, cp1252 or utf-16")]
ColumnNames = Annotated[str | list[str], doc("the name of a column, or a list of names such as [title,body]")]
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
TEXTS = ("text_column", "pair_column")  # settings that may name several columns, which are joined
MAX_LISTED = 30  # columns to list in one sentence
MIN_SIMILARITY = 0.8  # a column is suggested if its name is at least this similar to the missing name (difflib)
MAX_LABEL_SHARE = 0.5  # a column with a larger share of distinct values is suggested as the label only for its name
# Usual names of columns, in the order in which they are suggested.
USUAL = {
    "text_column": ("text", "review", "message", "sentence", "content", "body", "comment_text", "comment", "tweet"),
    "label_column": ("label", "labels", "category", "class", "target", "sentiment", "topic", "rating", "stars"),
    "id_column": ("id", "ids", "_id", "index", "number", "key"),
}
SHELL_SAFE = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Request:
    """The columns to read from a file, and the format of the file.

    `columns` contains pairs of a setting and a column name, such as `("text_column", "text")`. A setting in `TEXTS` may
    occur several times: the cells of its columns are joined with `separator`. `spelling` is how messages write a
    setting: as a config key (`data.text_column`), a command-line option (`--text-column`) or an argument in Python
    (`text_column`). If `has_settings` is false, the user cannot set the names and the format, so messages suggest no
    setting. With `prefers_utf8`, a file that is evidently UTF-8 is read as UTF-8, whatever `encoding` is.
    """

    columns: tuple[tuple[str, str], ...]
    delimiter: Delimiter = "auto"
    quoting: Quoting = "auto"
    spelling: Spelling = "key"
    has_settings: bool = True
    encoding: str = AUTO
    separator: str = " "
    likely_encoding: str = "cp1252"  # suggested for a file that is not UTF-8
    prefers_utf8: bool = False

    @property
    def names(self) -> list[str]:
        """The columns to read, without duplicates."""
        return list(dict.fromkeys(name for _, name in self.columns))

    @cached_property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Map each column of the resulting table to the columns of the file that it joins (usually only one)."""
        texts = {each: tuple(name for setting, name in self.columns if setting == each) for each in TEXTS}
        made = (texts.get(setting, (name,)) for setting, name in self.columns)
        return {joined_name(names): names for names in made}

    @property
    def text_outputs(self) -> set[str]:
        """The columns of the table that contain texts."""
        texts = {name for setting, name in self.columns if setting in TEXTS}
        return {output for output, names in self.outputs.items() if names[0] in texts}

    def cell(self, row: Mapping[str, object], output: str, where: str, number: int) -> object:
        """Return the cell of the column `output` of the table; None if the row of the file lacks it.

        Raise UserError if the column joins texts and one of them is not a string. `where` and `number` are the position
        of the row, for messages.
        """
        names = self.outputs[output]
        return row.get(names[0]) if len(names) == 1 else joined(row, names, self.separator, f"{where} {number:,}")

    def key(self, setting: str) -> str:
        """Return the config key, the option or the argument of a setting."""
        return spelled(setting, self.spelling)

    def assignment(self, setting: str, value: str) -> str:
        """Return `setting` with a value as the user writes it, such as `data.text_column=body` or `--text-column body`.

        Quote the value for the shell if necessary.
        """
        if self.spelling == "argument":
            return f"{setting}={json.dumps(value, ensure_ascii=False)}"
        if self.spelling == "option":
            return f"{self.key(setting)} {value if SHELL_SAFE.fullmatch(value) else repr(value)}"
        if SHELL_SAFE.fullmatch(value):
            return f"{self.key(setting)}={value}"
        return f"""'{self.key(setting)}="{value}"'"""


def spelled(setting: str, spelling: Spelling) -> str:
    """Return the name of a setting: `data.text_column`, `--text-column` or `text_column`."""
    option = f"--{setting.replace('_', '-')}"
    return {"key": f"data.{setting}", "option": option, "argument": setting}[spelling]


def names_of(setting: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the column names in a setting as a tuple."""
    if setting is None:
        return ()
    return (setting,) if isinstance(setting, str) else tuple(setting)


def joined_name(names: Sequence[str]) -> str:
    """Return the name of the column that joins several columns, such as `title + body`."""
    return " + ".join(names)


def joined(row: Mapping[str, object], names: Sequence[str], separator: str, place: str) -> str:
    """Join the cells of several columns, without missing and blank cells; "" if all are missing or blank."""
    parts = []
    for name in names:
        cell = row.get(name)
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            continue
        if not isinstance(cell, str):
            raise UserError(f"{place}: {name!r} must be a string, not a value of type {type(cell).__name__}.")
        if cell.strip():
            parts.append(cell)
    return separator.join(parts)


def request_of(
    text_column: str | Sequence[str],
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    part_column: str | None = None,
    delimiter: Delimiter = "auto",
    quoting: Quoting = "auto",
    encoding: str = AUTO,
    pair_column: str | Sequence[str] | None = None,
    text_separator: str = " ",
) -> Request:
    """Return the request for the columns of a dataset.

    Raise UserError if two settings name the same column, if a setting names a column twice, or if a setting is an empty
    list. There are two exceptions: `group_column` may equal `id_column`, and `part_column` may equal any other column.
    """
    given = [
        *(("text_column", name) for name in names_of(text_column)),
        *(("pair_column", name) for name in names_of(pair_column)),
        ("label_column", label_column),
        *(("id_column", name) for name in names_of(id_column)),
    ]
    for key, names in zip(TEXTS, (text_column, pair_column), strict=True):
        if names is not None and not names_of(names):
            raise UserError(f"data.{key}=[] names no column. Name at least one column.")
    distinct = [*given, *(("group_column", name) for name in names_of(group_column) if name != id_column)]
    for position, (key, name) in enumerate(distinct):
        first = next(other for other, column in distinct[: position + 1] if column == name)
        if first != key:
            raise UserError(f"data.{first} and data.{key} are both {name!r}; they must be different columns.")
        if (key, name) in distinct[:position]:
            raise UserError(f"data.{key} names the column {name!r} twice. Name each column once.")
    given += [("group_column", name) for name in names_of(group_column)]
    given += [("part_column", name) for name in names_of(part_column)]
    return Request(tuple(given), delimiter, quoting, encoding=encoding, separator=text_separator)


def positions_of(request: Request, names: Sequence[str], where: str) -> dict[str, int]:
    """Return the index of each requested column in a file with the columns `names`, ignoring surrounding spaces.

    A missing column is absent from the result. Raise UserError for a requested column that occurs more than once;
    columns that are not requested may have equal names. `where` is the file, and the line if known, for the message.
    """
    positions = {}
    for setting, wanted in request.columns:
        found = [index for index, name in enumerate(names) if name == wanted]
        found = found or [index for index, name in enumerate(names) if name.strip() == wanted.strip()]
        if len(found) > 1:
            key = f" ({request.key(setting)})" if request.has_settings else ""
            raise UserError(
                f"{where}: column {wanted!r}{key} occurs {len(found)} times in {listed(names)}. Rename all but one of "
                "them."
            )
        if found:
            positions[wanted] = found[0]
    return positions


def missing_columns(
    request: Request,
    names: Sequence[str],
    where: str,
    *,
    rows: Iterable[Mapping[str, object]] = (),
    hint: str = "",
) -> UserError | None:
    """Return an error that lists every requested column that a file lacks; None if no column is missing.

    `names` are the columns of the file. The error suggests some of them, based on `rows`, which are some of its rows.
    `where` names the file, and `hint` follows the list of its columns.
    """
    names = [name for name in names if name.strip()]  # spreadsheets leave columns without a name
    stripped = {name.strip() for name in names}
    missing = [(setting, name) for setting, name in request.columns if name.strip() not in stripped]
    if not missing:
        return None
    *others, last = (f"{name!r} ({request.key(setting)})" for setting, name in missing)
    wanted = f"{', '.join(others)} and {last}" if others else last
    columns = "column" if len(missing) == 1 else "columns"
    has = f"it has {listed(names)}" if names else "it has no named columns"
    requested = {name for _, name in request.columns}
    rows = list(rows)
    objects = {name for row in rows for name, cell in row.items() if isinstance(cell, dict)}
    candidates = [name for name in names if name not in requested and name not in objects]
    settings = [setting for setting, _ in request.columns]
    single = [setting for setting, _ in missing if settings.count(setting) == 1]  # settings that name one column
    similar = {pair: near for pair in missing if (near := similar_name(pair[1], candidates)) is not None}
    found = {setting: near for (setting, _), near in similar.items() if setting in single}
    rest = [name for name in candidates if name not in similar.values()]
    suggested = found | suggestions([setting for setting in single if setting not in found], rest, rows)
    uses = [" ".join(request.assignment(setting, suggested[setting]) for setting in single if setting in suggested)]
    uses += [f"{near!r} instead of {name!r}" for (setting, name), near in similar.items() if setting not in single]
    advice = ", and ".join(use for use in uses if use)
    return UserError(f"{where} has no {columns} {wanted}; {has}{hint}.{f' Use {advice}.' if advice else ''}")


def similar_name(name: str, names: Sequence[str]) -> str | None:
    """Return the column with the name most similar to `name`, ignoring case; None if none is similar enough."""
    by_folded = {each.strip().casefold(): each for each in reversed(names)}
    near = get_close_matches(name.strip().casefold(), by_folded, 1, MIN_SIMILARITY)
    return by_folded[near[0]] if near else None


def suggestions(settings: Sequence[str], names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Suggest a column of the file for each setting, by the usual names of such columns.

    If no column has a usual name, suggest the column with the longest cells as the text column, and the column with the
    most repeated values as the label column.
    """
    found: dict[str, str] = {}
    for setting in settings:
        usual = [name for word in USUAL.get(setting, ()) for name in names if name.strip().lower() == word]
        if usual and usual[0] not in found.values():
            found[setting] = usual[0]
    cells = {
        name: [str(row[name]) for row in rows if row.get(name) not in (None, "")]
        for name in names
        if name.strip() and name not in found.values()
    }
    cells = {name: values for name, values in cells.items() if values}
    if "text_column" in settings and "text_column" not in found and cells:
        found["text_column"] = max(cells, key=lambda name: statistics.fmean(map(len, cells[name])))
        del cells[found["text_column"]]
    if "label_column" in settings and "label_column" not in found:
        shares = {name: len(set(values)) / len(values) for name, values in cells.items() if len(set(values)) > 1}
        if shares and min(shares.values()) <= MAX_LABEL_SHARE:
            found["label_column"] = min(shares, key=shares.__getitem__)
    return {setting: found[setting] for setting in settings if setting in found}


def listed(names: Sequence[str]) -> str:
    """Return names as a list for a message, in quotation marks and shortened."""
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return ", ".join(repr(name[:80]) for name in names[:MAX_LISTED]) + more
