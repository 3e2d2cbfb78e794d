"""Check the columns of tables and turn them into a source, the last step of every reader."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np

from imdbcls.data.columns import ColumnNames, joined_name, missing_columns, names_of, request_of
from imdbcls.data.documents import Documents, Source, cell_text, is_whole, label_name
from imdbcls.data.table import Table
from imdbcls.data.text_column import MappedTexts, as_names
from imdbcls.errors import UserError
from imdbcls.printable import is_unicode
from imdbcls.runs.untrusted import MAX_ID_CHARACTERS

MAX_CLASSES = 1_000  # more classes mean a wrong column, and no comparison could show them
NO_PART = "(none)"  # the part of documents without a value in data.part_column
FEW_CLASSES = 10  # this many classes are allowed even in a tiny file with fewer than two documents per class

ONE_LABEL = (
    "a document has exactly one label. For several labels, write one true/false column for each label, and train one "
    "run per column"
)
SURROGATE = "contains half of a character such as an emoji (a surrogate): write the file again as UTF-8"

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_FRACTION = re.compile(r"[+-]?\d+\.\d*[1-9]\d*")


def make_source(
    tables: dict[str, Table],
    text_column: ColumnNames,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    part_column: str | None = None,
    *,
    labels: dict[str, str] | None = None,
    skip_empty: bool | None = None,
    pair_column: ColumnNames | None = None,
) -> Source:
    """Turn the tables of `train` and, if present, of `validation` and `test` into a source.

    The classes are the labels that occur in train. `labels` maps each label in the data to the name of its class, in
    class order; with None, the labels are the class names. `pair_column` names the second texts. If `text_column` or
    `pair_column` names several columns, the tables have one column with their joined texts. `skip_empty` skips rows in
    which a text or the label is missing, and adds a note. None is for readers without this setting: no rows are
    skipped, and errors do not suggest the setting.

    Raise UserError for a table without rows, a missing column, a row without a text, label or cluster, a label that
    does not occur in train, and a repeated id. Also raise UserError if the training labels are all equal, too many or
    fractions.
    """
    first = joined_name(names_of(text_column))
    second = None if pair_column is None else joined_name(names_of(pair_column))
    request = request_of(first, label_column, id_column, group_column, part_column, pair_column=second)
    texts = (first,) if second is None else (first, second)
    for split, table in tables.items():
        if not table.numbers:
            raise UserError(f"{table.name} contains no documents.")
        missing = missing_columns(request, list(table.columns), table.name)
        if missing is not None:
            raise missing
        if skip_empty:
            tables = {**tables, split: without_empty_rows(table, texts, label_column, "data.skip_empty=true")}
    if not skip_empty:
        hint = "" if skip_empty is None else "; data.skip_empty=true skips such rows"
        require_complete(tables.values(), texts, label_column, hint)
    keys = _find_label_keys(tables["train"], label_column)
    _require_classes(tables["train"], keys, label_column)
    found = sort_labels(keys)
    # Drop declared classes that never occur in train: they cannot be learnt.
    labels = {key: key for key in found} if labels is None else {key: labels[key] for key in labels if key in found}
    class_of = {key: index for index, key in enumerate(labels)}
    classes = _shorten([key if key == name else f"{key} ({name})" for key, name in labels.items()])
    splits: dict[str, Documents] = {
        split: documents_of(
            table,
            split,
            text_column=first,
            label_column=label_column,
            id_column=id_column,
            group_column=group_column,
            part_column=part_column,
            pair_column=second,
            class_of=class_of,
            allowed=f"the training classes: {classes}",
        )
        for split, table in tables.items()
    }
    return Source(
        train=splits["train"],
        test=splits.get("test"),
        validation=splits.get("validation"),
        label_names=tuple(labels.values()),
        notes=(
            *(note for table in tables.values() for note in table.notes),
            *_doubtful_labels(labels, tables["train"], keys),
        ),
    )


def without_empty_rows(table: Table, text_columns: Sequence[str], label_column: str, setting: str) -> Table:
    """Return the table without the rows in which a text or the label is missing; raise UserError if none remain.

    `setting` is the user's setting that skips these rows; the note contains its name.
    """
    skipped: set[int] = set()
    counts: list[tuple[int, str]] = []
    for problem, rows in _empty_cells(table, text_columns, label_column):
        counts.append((len(set(rows) - skipped), problem))
        skipped |= set(rows)
    num_rows = len(table.numbers)
    if not skipped:
        return table
    if len(skipped) == num_rows:
        raise UserError(f"{table.name} has no row with both a text and a label.")
    reasons = ", ".join(f"{count:,} with {reason}" for count, reason in counts if count)
    note = f"{table.name}: {len(skipped):,} of {num_rows:,} rows are skipped: {reasons} ({setting})."
    return table.take([row for row in range(num_rows) if row not in skipped], note)


def require_complete(tables: Iterable[Table], text_columns: Sequence[str], label_column: str, hint: str) -> None:
    """Raise UserError if a text or label is missing, with one sentence per table and column."""
    problems = [
        f"{table.place(rows[0])}{_more(rows)}: {problem}{hint}."
        for table in tables
        for problem, rows in _empty_cells(table, text_columns, label_column)
        if rows
    ]
    if problems:
        raise UserError(*problems)


def _empty_cells(table: Table, text_columns: Sequence[str], label_column: str) -> Iterator[tuple[str, list[int]]]:
    """Yield what is missing and in which rows, for each column of texts and for the label column."""
    for name in text_columns:
        rows = [row for row, text in enumerate(table.columns[name]) if text is None or not str(text).strip()]
        yield f"no text in {name!r}", rows
    rows = [row for row, label in enumerate(table.columns[label_column]) if label_name(label) == ""]
    yield f"no label in {label_column!r}", rows


def _require_classes(table: Table, keys: Sequence[str], label_column: str) -> None:
    """Raise UserError if there is a single class, if there are too many, or if labels are fractions."""
    distinct = set(keys)
    if len(distinct) == 1:
        raise UserError(
            f"{table.name}: every document has the label {keys[0]!r}; "
            "a classifier needs at least two classes in training."
        )
    fraction = next((row for row, key in enumerate(keys) if _FRACTION.fullmatch(key)), None)
    if fraction is not None and all(_NUMBER.fullmatch(key) for key in distinct):
        raise UserError(
            f"{table.place(fraction)}: label {keys[fraction]!r} is a fraction, but a run trains a "
            "classifier, not a regression model; round the labels, or replace them with class names."
        )
    if len(distinct) > MAX_CLASSES or len(distinct) > max(len(keys) / 2, FEW_CLASSES):
        raise UserError(
            f"{table.name}: {label_column!r} has {len(distinct):,} different values in {len(keys):,} documents, "
            f"such as {keys[0][:40]!r} in {table.where(0)}; data.label_column seems to name the wrong column."
        )


def _doubtful_labels(labels: Mapping[str, str], table: Table, keys: Sequence[str]) -> Iterator[str]:
    """Yield a note for the label -1, and for labels that differ only in case."""
    first_row: dict[str, int] = {}
    for row, key in enumerate(keys):
        first_row.setdefault(key, row)
    if "-1" in labels:
        yield (
            f"{table.place(first_row['-1'])}: label -1 is treated as a class; if it marks documents "
            "without a label, remove their rows."
        )
    spellings: dict[str, str] = {}
    for key, name in labels.items():
        first = spellings.setdefault(name.casefold(), key)
        if first != key:
            yield (
                f"{table.name}: labels {labels[first]!r} ({table.where(first_row[first])}) and {name!r} "
                f"({table.where(first_row[key])}) differ only in case; they are treated as two classes."
            )


def documents_of(
    table: Table,
    split: str,
    *,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    part_column: str | None,
    pair_column: str | None,
    class_of: Mapping[str, int],
    allowed: str,
) -> Documents:
    """Check the columns of one split and return them as documents. `table` must not lack any text or label.

    A row with the label `key` gets the class `class_of[key]`. Without an id column, the id of a document consists of
    the split's name and the row number, counted from 0 (`train/000017`). `allowed` describes the allowed labels in
    messages.
    """
    texts = _texts_of(table, text_column)
    pairs = None if pair_column is None else _texts_of(table, pair_column)
    keys = _find_label_keys(table, label_column)
    unseen = [row for row, key in enumerate(keys) if key not in class_of]
    if unseen:
        unlabelled = "; -1 usually marks documents without a label, so remove their rows" if "-1" in keys else ""
        raise UserError(
            f"{table.place(unseen[0])}{_more(unseen)}: label {keys[unseen[0]]!r} is not one of {allowed}{unlabelled}."
        )
    labels = np.fromiter((class_of[key] for key in keys), dtype=np.int64, count=len(keys))

    if id_column is None:
        ids = as_names(f"{split}/{table.index(row):06d}" for row in range(len(texts)))
    else:
        ids = _as_strings(table, id_column, "data.id_column")
        too_long = f"the id in {id_column!r} (data.id_column) has more than {MAX_ID_CHARACTERS} characters"
        _require_none(table, (len(name) > MAX_ID_CHARACTERS for name in ids), too_long)
        _require_unique(table, ids)
    clusters = None if group_column is None else _as_strings(table, group_column, "data.group_column")
    parts = None if part_column is None else _part_names(table, part_column)
    return Documents(ids, texts, labels, clusters, parts, pairs)


def _texts_of(table: Table, name: str) -> Sequence[str]:
    """Return a column of texts; raise UserError for a value that is not a valid string."""
    raw_texts = table.columns[name]
    for row, text in enumerate(raw_texts):
        if not isinstance(text, str):
            advice = "; join its parts into one string" if isinstance(text, list | dict) else ""
            raise UserError(
                f"{table.place(row)}: {name!r} must be a string, not a value of type {type(text).__name__}{advice}."
            )
    texts: Sequence[str] = raw_texts if isinstance(raw_texts, MappedTexts) else [str(text) for text in raw_texts]
    _require_none(table, (not is_unicode(text) for text in texts), f"{name!r} {SURROGATE}")
    return texts


def _require_unique(table: Table, ids: Sequence[str]) -> None:
    if isinstance(ids, MappedTexts):
        from pyarrow.compute import count_distinct

        if count_distinct(ids.arrow()).as_py() == len(ids):  # needs less memory than the search for the rows
            return
    first_row: dict[str, int] = {}
    for row, name in enumerate(ids):
        if first_row.setdefault(name, row) != row:
            raise UserError(
                f"{table.place(row)}: id {name!r} already occurs in {table.where(first_row[name])}; ids must be unique."
            )


def _part_names(table: Table, part_column: str) -> list[str]:
    """Return the part to which each row belongs. A row without a value belongs to the part `NO_PART`."""
    names = [cell_text(value) or NO_PART for value in table.columns[part_column]]
    _require_none(table, (not is_unicode(name) for name in names), f"{part_column!r} (data.part_column) {SURROGATE}")
    return names


def _find_label_keys(table: Table, label_column: str) -> list[str]:
    """Return the label of every row as a string (`1`, `true`, `sports`); raise UserError for an unusable label."""
    values = table.columns[label_column]
    keys = [sys.intern(label_name(value)) for value in values]  # one string per class, not per row
    _require_none(table, (not is_unicode(key) for key in keys), f"{label_column!r} {SURROGATE}")
    for row, value in enumerate(values):
        if not isinstance(value, str) and not (isinstance(value, int | float | Decimal) and is_whole(value)):
            advice = f"; {ONE_LABEL}" if isinstance(value, list | dict) else ""
            raise UserError(f"{table.place(row)}: label {value!r} is neither a string nor a whole number{advice}.")
    return keys


def sort_labels(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in class order: numeric if all are whole numbers, else alphabetical."""
    distinct = set(keys)
    try:
        return tuple(sorted(distinct, key=lambda key: (int(key), key)))
    except ValueError:
        return tuple(sorted(distinct))


def _as_strings(table: Table, name: str, key: str) -> Sequence[str]:
    """Return a column as strings. `key` is the config key that names the column, for messages."""
    values = as_names(cell_text(value) for value in table.columns[name])
    _require_none(table, (value == "" for value in values), f"no value in {name!r} ({key})")
    _require_none(table, (not is_unicode(value) for value in values), f"{name!r} ({key}) {SURROGATE}")
    return values


def _require_none(table: Table, bad: Iterable[bool], problem: str) -> None:
    """Raise UserError if any row is bad. The error names the first bad row and counts the others."""
    rows = [row for row, is_bad in enumerate(bad) if is_bad]
    if rows:
        raise UserError(f"{table.place(rows[0])}{_more(rows)}: {problem}.")


def _more(rows: Sequence[int]) -> str:
    return "" if len(rows) == 1 else f" (and {len(rows) - 1:,} more {'row' if len(rows) == 2 else 'rows'})"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "")
