"""Checks the columns of tables and turns them into a source: the step that every reader ends with."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np

from imdbcls.data.documents import MAX_ID_CHARACTERS, Documents, Source, cell_text, is_unicode, is_whole, label_name
from imdbcls.data.tables import Table
from imdbcls.errors import UserError

MAX_CLASSES = 1_000  # more are a wrong column, and no comparison shows them
FEW_CLASSES = 10  # so many may be as many as half the documents: a file made to try things out

CUT_IN_TWO = "holds half of a character (a lone surrogate: an emoji cut in two?), which no UTF-8 file can hold"

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_FRACTION = re.compile(r"[+-]?\d+\.\d*[1-9]\d*")


def make_source(
    tables: dict[str, Table],
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    *,
    labels: dict[str, str] | None = None,
) -> Source:
    """Turn the tables of `train` and, where there are any, `validation` and `test` into a source.

    The classes are the labels that occur in train. `labels` maps a label as written in the data to the name
    of its class, in class order; None leaves the labels as they are.

    Raises UserError, naming file and row, for a table without rows, a missing column, an empty or missing
    text, a missing label or group, a label that does not occur in train, an id that occurs twice, and for a
    single class.
    """
    _require_different_columns(text_column, label_column, id_column, group_column)
    for table in tables.values():
        if not table.numbers:
            raise UserError(f"{table.name} holds no documents.")
    keys = _find_label_keys(tables["train"], label_column)
    _require_classes(tables["train"], keys, label_column)
    found = _sort_labels(keys)
    # A class that is declared and never occurs in training cannot be learnt, and is none.
    labels = {key: key for key in found} if labels is None else {key: labels[key] for key in labels if key in found}
    splits: dict[str, Documents] = {
        split: _to_documents(
            table,
            split,
            text_column=text_column,
            label_column=label_column,
            id_column=id_column,
            group_column=group_column,
            label_keys=tuple(labels),
            label_names=tuple(labels.values()),
        )
        for split, table in tables.items()
    }
    return Source(
        train=splits["train"],
        test=splits.get("test"),
        validation=splits.get("validation"),
        label_names=tuple(labels.values()),
        notes=tuple(_doubtful_labels(labels)),
    )


def _require_different_columns(
    text_column: str, label_column: str, id_column: str | None, group_column: str | None
) -> None:
    names = {"text_column": text_column, "label_column": label_column, "id_column": id_column}
    if group_column != id_column:
        names["group_column"] = group_column
    given = {key: name for key, name in names.items() if name is not None}
    for key, name in given.items():
        first = next(other for other in given if given[other] == name)
        if first != key:
            raise UserError(f"data.{first} and data.{key} are both {name!r}; they must be different columns.")


def _require_classes(table: Table, keys: Sequence[str], label_column: str) -> None:
    """Refuse labels that no classifier can be trained on: a single one, as many as documents, or fractions."""
    distinct = set(keys)
    if len(distinct) == 1:
        raise UserError(
            f"{table.name}: every document has the label {keys[0]!r}; "
            "a classifier needs at least two classes in training."
        )
    fraction = next((row for row, key in enumerate(keys) if _FRACTION.fullmatch(key)), None)
    if fraction is not None and all(_NUMBER.fullmatch(key) for key in distinct):
        raise UserError(
            f"{table.name}, {table.where(fraction)}: label {keys[fraction]!r} is a fraction, and this trains "
            "classifiers; round it, or name classes in words."
        )
    if len(distinct) > MAX_CLASSES or len(distinct) > max(len(keys) / 2, FEW_CLASSES):
        raise UserError(
            f"{table.name}: {label_column!r} has {len(distinct):,} different values in {len(keys):,} documents, "
            f"{keys[0][:40]!r} in {table.where(0)}; data.label_column seems to be the wrong one."
        )


def _doubtful_labels(labels: Mapping[str, str]) -> Iterator[str]:
    if "-1" in labels:
        yield "Label -1 is taken for a class; where it marks documents without a label, leave their rows out."
    spellings: dict[str, str] = {}
    for name in labels.values():
        first = spellings.setdefault(name.casefold(), name)
        if first != name:
            yield f"Labels {first!r} and {name!r} differ only in capital letters and are two classes."


def _to_documents(
    table: Table,
    split: str,
    *,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    label_keys: Sequence[str],
    label_names: Sequence[str],
) -> Documents:
    """Check one split's columns and return them as documents.

    A row whose label is `label_keys[i]` becomes class i. Without an id column, ids are the split's
    name and the row counted from 0 (`train/000017`).
    """
    raw_texts = table.column(text_column, "data.text_column")
    for row, text in enumerate(raw_texts):
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(
                f"{table.name}, {table.where(row)}: {text_column!r} holds no text but a value of type {kind}."
            )
    _refuse(table, [text is None or not str(text).strip() for text in raw_texts], f"no text in {text_column!r}")
    texts = [str(text) for text in raw_texts]
    _refuse(table, [not is_unicode(text) for text in texts], f"{text_column!r} {CUT_IN_TWO}")

    class_of = {key: index for index, key in enumerate(label_keys)}
    keys = _find_label_keys(table, label_column)
    unseen = [row for row, key in enumerate(keys) if key not in class_of]
    if unseen:
        names = [key if key == name else f"{key} ({name})" for key, name in zip(label_keys, label_names, strict=True)]
        unlabelled = "; -1 usually marks documents without a label, which cannot be used" if "-1" in keys else ""
        raise UserError(
            f"{table.name}, {table.where(unseen[0])}: label {keys[unseen[0]]!r} is not one of the labels in training: "
            f"{_shorten(names)}{_more(unseen)}{unlabelled}."
        )
    labels = np.array([class_of[key] for key in keys], dtype=np.int64)

    if id_column is None:
        ids = [f"{split}/{row:06d}" for row in range(len(texts))]
    else:
        ids = _as_strings(table, id_column, "data.id_column")
        too_long = f"an id of more than {MAX_ID_CHARACTERS} characters in {id_column!r} (data.id_column)"
        _refuse(table, [len(name) > MAX_ID_CHARACTERS for name in ids], too_long)
        first_row: dict[str, int] = {}
        for row, name in enumerate(ids):
            if first_row.setdefault(name, row) != row:
                raise UserError(
                    f"{table.name}, {table.where(row)}: id {name!r} occurs before, in {table.where(first_row[name])}; "
                    "ids must be unique."
                )
    groups = None if group_column is None else _as_strings(table, group_column, "data.group_column")
    return Documents(ids, texts, labels, groups)


def _find_label_keys(table: Table, label_column: str) -> list[str]:
    """Return every row's label as text (`1`, `true`, `sports`). Raises UserError for a missing label, with its row."""
    values = table.column(label_column, "data.label_column")
    keys = [label_name(value) for value in values]
    _refuse(table, [key == "" for key in keys], f"no label in {label_column!r}")
    _refuse(table, [not is_unicode(key) for key in keys], f"{label_column!r} {CUT_IN_TWO}")
    for row, value in enumerate(values):
        if not isinstance(value, str) and not (isinstance(value, int | float | Decimal) and is_whole(value)):
            raise UserError(f"{table.name}, {table.where(row)}: label {value!r} is neither text nor a whole number.")
    return keys


def _sort_labels(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in class order: by value if all are whole numbers, else by name."""
    distinct = set(keys)
    try:
        return tuple(sorted(distinct, key=lambda key: (int(key), key)))
    except ValueError:
        return tuple(sorted(distinct))


def _as_strings(table: Table, name: str, key: str) -> list[str]:
    values = [cell_text(value) for value in table.column(name, key)]
    _refuse(table, [value == "" for value in values], f"no value in {name!r} ({key})")
    _refuse(table, [not is_unicode(value) for value in values], f"{name!r} ({key}) {CUT_IN_TWO}")
    return values


def _refuse(table: Table, bad: Sequence[bool], problem: str) -> None:
    rows = [row for row, is_bad in enumerate(bad) if is_bad]
    if rows:
        raise UserError(f"{table.name}, {table.where(rows[0])}: {problem}{_more(rows)}.")


def _more(rows: Sequence[int]) -> str:
    return "" if len(rows) == 1 else f" (and {len(rows) - 1:,} more)"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "")
