"""Read a file of labelled documents to score a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdbcls.data.columns import Delimiter, Quoting, Spelling, names_of, spelled
from imdbcls.data.documents import Documents, label_name
from imdbcls.data.sources import documents_of, require_complete, without_empty_rows
from imdbcls.data.tables import read_table
from imdbcls.data.unlabeled import columns_for, request_for
from imdbcls.errors import UserError
from imdbcls.printable import shown


def read_labelled(
    file: str | Path,
    data: Mapping[str, Any],
    label_names: Sequence[str],
    *,
    text_column: str | Sequence[str] | None = None,
    pair_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    delimiter: Delimiter | None = None,
    quoting: Quoting | None = None,
    encoding: str | None = None,
    skip_empty: bool = False,
    class_of_label: Mapping[str, str] | None = None,
    spelling: Spelling = "argument",
) -> tuple[Documents, tuple[str, ...]]:
    """Return the documents of a file, with the ids `file/000000` and so on, and notes to log.

    `data` has the arguments of the run's data source, which give the default columns. `text_column` and `pair_column`
    each name one column, or several columns whose texts are joined. A label in the file must be one of `label_names`,
    the classes of the run, or a key of `class_of_label`, which maps other labels to these classes. `spelling` is how
    messages write an argument.

    Raise UserError as `read_table` does, and also for an unknown label and, unless `skip_empty` is true, for a row
    without a text or label.
    """
    path = Path(file)
    label = columns_for(data, "label_column", label_column)[0]
    texts = request_for(
        path,
        {key: value for key, value in data.items() if key != "id_column"},
        text_column=names_of(text_column),
        pair_column=names_of(pair_column),
        id_column=None,
        keep=None,
        delimiter=delimiter,
        quoting=quoting,
        encoding=encoding,
        spelling=spelling,
    )
    if label in texts.names:
        raise UserError(
            f"{spelled('label_column', spelling)}={label} is also a column of texts; it must be a different column."
        )
    request = replace(texts, columns=(*texts.columns, ("label_column", label)))
    text, *pair = texts.outputs
    table = read_table(str(file), spelled("file", spelling), request)
    if not table.numbers:
        raise UserError(f"{table.name} contains no documents.")
    skips = "--skip-empty" if spelling == "option" else "skip_empty=True"
    if skip_empty:
        table = without_empty_rows(table, (text, *pair), label, skips)
    else:
        require_complete([table], (text, *pair), label, f"; {skips} skips such rows")
    map_key = "--map" if spelling == "option" else "class_of_label"
    maps = "--map LABEL=CLASS" if spelling == "option" else 'class_of_label={"LABEL": "CLASS"}'
    documents = documents_of(
        table,
        "file",
        text_column=text,
        label_column=label,
        id_column=None,
        group_column=None,
        part_column=None,
        pair_column=next(iter(pair), None),
        class_of=classes_by_label(label_names, class_of_label or {}, map_key),
        allowed=f"the classes of the run: {', '.join(label_names)} ({maps} maps other labels to them)",
    )
    return documents, table.notes


def classes_by_label(label_names: Sequence[str], class_of_label: Mapping[str, str], key: str) -> dict[str, int]:
    """Return the class index of each allowed label. Raise UserError if a label is mapped to an unknown class."""
    index_of = {name: index for index, name in enumerate(label_names)}
    for label, name in class_of_label.items():
        if name not in index_of:
            raise UserError(f"{key} {shown(label)}={shown(name)}: the classes of the run are {', '.join(label_names)}.")
    return index_of | {label_name(label): index_of[name] for label, name in class_of_label.items()}
