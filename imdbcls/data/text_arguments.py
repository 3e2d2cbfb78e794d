"""The options of `predict` and `explain` that select texts: from the command line, from a file or from stdin."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

from imdbcls.data.answers import require_output
from imdbcls.data.columns import AUTO, Delimiter, Quoting, Request, spelled
from imdbcls.data.lines import known_encoding
from imdbcls.data.table_paths import FORMATS, LINES, require_table
from imdbcls.data.unlabeled import Texts, from_arguments, from_file, from_stdin, reads_pairs, request_for
from imdbcls.errors import UserError

COLUMN_OPTIONS = ("text_column", "pair_column", "id_column", "keep", "delimiter", "quoting", "encoding")


FILE = "a .csv, .tsv, .jsonl, .ndjson or .parquet file of texts, or a .txt file with one text per line"


def add_column_options(
    parser: argparse.ArgumentParser, file_help: str = FILE, *, with_pairs: bool = True, with_ids: bool = True
) -> None:
    """Add `--file` and the options for its text columns and its format.

    With `with_pairs` and `with_ids`, also add the options for its columns of second texts and its id column.
    """
    parser.add_argument("--file", type=Path, help=file_help)
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        action="append",
        help="name of the column with the texts; if repeated, the texts of the columns are joined (default: the text "
        "columns of the run's data, or text)",
    )
    if with_pairs:
        parser.add_argument(
            "--pair-column",
            metavar="NAME",
            action="append",
            help="name of the column with the second texts, for runs that classify pairs (default: the pair column of "
            "the run's data)",
        )
    if with_ids:
        parser.add_argument(
            "--id-column",
            metavar="NAME",
            help="column to copy into the answers as id (default: the id column of the run's data, if present)",
        )
    parser.add_argument(
        "--delimiter",
        choices=get_args(Delimiter),
        help="delimiter of CSV and TSV files (default: the delimiter of the run's data, else auto)",
    )
    parser.add_argument(
        "--quoting",
        choices=get_args(Quoting),
        help="whether quotation marks enclose fields of CSV and TSV files (default: the quoting of the run's data, "
        "else auto)",
    )
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help="encoding of text files, such as latin-1, cp1252 or utf-16 (default: the encoding of the "
        "run's data if the file fits it, else auto: UTF-8, unless the file begins with another byte order mark)",
    )


def require_text_options(arguments: argparse.Namespace, more: Sequence[str] = ()) -> None:
    """Raise UserError for options that cannot be combined, before anything is loaded.

    `more` are given options, such as `--row`, that can only be used with `--file`.
    """
    if arguments.file is not None and arguments.texts:
        raise UserError("Pass texts either on the command line or in --file, not both.")
    given = {name: value for name, value in column_options(arguments).items() if value is not None}
    unused = [spelled(name, "option") for name in given if name != "encoding"] + list(more)
    if arguments.file is None and unused:
        raise UserError(f"{', '.join(unused)} can only be used with --file.")
    if arguments.texts and "encoding" in given:
        raise UserError("--encoding can only be used with --file and stdin.")
    if given.get("encoding", AUTO) != AUTO:
        known_encoding(Request((), encoding=arguments.encoding, spelling="option"))
    if arguments.file is not None:
        require_table(arguments.file, "--file", (*FORMATS, *LINES))
    if arguments.output is not None:
        require_output(arguments.output, arguments.file)


def texts_of(arguments: argparse.Namespace, stdin: TextIO, data: Mapping[str, Any]) -> Texts:
    """Return the texts from the command line, `--file` or stdin.

    By default, the columns are the columns in `data`, the arguments of the run's data source.
    """
    if arguments.file is None:
        pairs = reads_pairs(data)
        if arguments.texts:
            return from_arguments(arguments.texts, reads_pairs=pairs)
        return from_stdin(stdin, data, arguments.encoding)
    return from_file(arguments.file, request_for(arguments.file, data, **column_options(arguments)))


def column_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that describe `--file`. Only `predict` has `keep`, and `explain` has no `pair_column`."""
    return {name: getattr(arguments, name, None) for name in COLUMN_OPTIONS}
