"""The documents of `imdbcls.pretrain`: train and unlabelled documents, except copies of held-out documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imdbcls.data.columns import AUTO, Request, names_of
from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.imdb import read_unlabelled_imdb
from imdbcls.data.splits import hash_of_splits, limited, text_keys
from imdbcls.data.table import Table
from imdbcls.data.table_paths import FORMATS, LINES
from imdbcls.data.tables import read_table
from imdbcls.errors import UserError
from imdbcls.printable import is_unicode

KEY = "data.unlabelled"
WITH_LINES = (*FORMATS, *LINES)  # the formats of documents without labels


def read_unlabelled(
    unlabelled: str | list[str] | None, target: str, arguments: Mapping[str, Any], notes: list[str]
) -> Documents:
    """Return the unlabelled documents; there may be none. Append messages about them to `notes`.

    `unlabelled` names the files to read. `AUTO` means the unlabelled documents of the dataset. With None,
    there are no unlabelled documents. `target` is the reader of the labelled documents, and `arguments` are its
    arguments. Raise UserError for a file that cannot be read, or that has no text column or no text.
    """
    table: Table | None = None
    if unlabelled == AUTO and target == "imdbcls.data.imdb.read_imdb":
        table = read_unlabelled_imdb(arguments["path"])
        if table is None:
            notes.append(f"data.path={arguments['path']} has no unlabelled documents, so only train is used.")
    elif unlabelled is not None and unlabelled != AUTO:
        table = read_table(unlabelled, KEY, request_of_unlabelled(arguments), WITH_LINES)
    if table is None:
        return unlabelled_documents([])
    (texts,) = table.columns.values()
    rows = [row for row, text in enumerate(texts) if isinstance(text, str) and text.strip() and is_unicode(text)]
    if not rows:
        raise UserError(f"{table.name} has no row with a text. Set data.unlabelled to another file or to null.")
    if len(rows) < len(texts):
        num_skipped = len(texts) - len(rows)
        skipped = "1 row without a text is" if num_skipped == 1 else f"{num_skipped:,} rows without a text are"
        table = table.take(rows, f"{table.name}: {skipped} skipped.")
    notes += table.notes
    return unlabelled_documents(next(iter(table.columns.values())))


def request_of_unlabelled(arguments: Mapping[str, Any]) -> Request:
    """Return the request for a file of unlabelled documents, with the text column and format of the labelled data.

    A file that is evidently UTF-8 is read as UTF-8, because it may come from a different source than the labelled data.
    """
    formats = {key: arguments[key] for key in ("delimiter", "quoting", "encoding") if key in arguments}
    columns = tuple(("text_column", name) for name in names_of(arguments.get("text_column", "text")))
    return Request(columns, **formats, separator=arguments.get("text_separator", " "), prefers_utf8=True)


def unlabelled_documents(texts: Sequence[Any]) -> Documents:
    """Return documents with the ids `unlabelled/000000` and so on. Their labels are 0 and have no meaning."""
    ids = [f"unlabelled/{row:06d}" for row in range(len(texts))]
    return Documents(ids, texts, np.zeros(len(texts), dtype=np.int64))


def pretraining_corpus(
    labelled: Corpus,
    unlabelled: Documents,
    *,
    validation_limit: int | float | None,
    unlabelled_limit: int | float | None,
    split_seed: int,
    notes: Sequence[str],
) -> Corpus:
    """Return the corpus of pretraining. Its train split has the train and the unlabelled documents.

    Leave out documents whose text also occurs in validation or test, and use each repeated text only once. Texts that
    differ only in white space count as equal. `labelled` must have its complete validation and test splits. The
    validation split of the result has the validation documents, up to `validation_limit`; its test split is empty.
    """
    found = list(notes)  # without `labelled.notes`, which are about classification
    if len(unlabelled):
        unlabelled = limited(unlabelled, "unlabelled", unlabelled_limit, split_seed, found)
    texts = [*labelled.train.texts, *unlabelled.texts]
    keys = text_keys(texts)
    _, first_rows = np.unique(keys, return_index=True)
    is_kept = np.zeros(len(texts), dtype=bool)
    is_kept[first_rows] = True
    if repeated := int((~is_kept).sum()):
        found.append(f"{described(repeated)} repeated, and each text is used only once.")
    for name in ("test", "validation"):
        is_held_out = is_kept & np.isin(keys, text_keys(labelled.splits[name].texts))
        if num_held_out := int(is_held_out.sum()):
            found.append(f"{described(num_held_out)} left out, because the same text is in {name}.")
        is_kept &= ~is_held_out
    if not is_kept.any():
        raise UserError(
            "No document is left for pretraining: every text is also in validation or test. Add other documents with "
            "data.unlabelled."
        )
    ids = [*labelled.train.ids, *unlabelled.ids]
    train = Documents(ids, texts, np.zeros(len(texts), dtype=np.int64)).take(np.flatnonzero(is_kept))
    held_out = limited(labelled.validation, "validation", validation_limit, split_seed, found)
    splits = {"train": train, "validation": held_out, "test": unlabelled_documents([])}
    return Corpus(
        **splits,
        label_names=labelled.label_names,
        split_hash=hash_of_splits(splits, ()),
        notes=tuple(found),
        held_out_hash=labelled.held_out_hash,
    )


def described(num_documents: int) -> str:
    return "1 document is" if num_documents == 1 else f"{num_documents:,} documents are"
