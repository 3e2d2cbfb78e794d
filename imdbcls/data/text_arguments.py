"""The options of `predict` and `explain` that select texts: from the command line, from a file or from stdin."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from imdbcls.data.answers import require_output
from imdbcls.data.tables import require_table
from imdbcls.data.unlabeled import Texts, from_arguments, from_file, from_stdin, request_for
from imdbcls.errors import UserError

COLUMN_OPTIONS = ("text_column", "id_column", "keep", "delimiter", "quoting")  # `explain` has no option `keep`


def require_text_options(arguments: argparse.Namespace, more: Sequence[str] = ()) -> None:
    """Raise UserError for options that cannot be combined, before anything is loaded.

    `more` are given options, such as `--row`, that can only be used with `--file`.
    """
    if arguments.file is not None and arguments.texts:
        raise UserError("Pass texts either on the command line or in --file, not both.")
    unused = [f"--{name.replace('_', '-')}" for name, value in column_options(arguments).items() if value is not None]
    unused += more
    if arguments.file is None and unused:
        raise UserError(f"{', '.join(unused)} can only be used with --file.")
    if arguments.file is not None:
        require_table(arguments.file, "--file")
    if arguments.output is not None:
        require_output(arguments.output, arguments.file)


def texts_of(arguments: argparse.Namespace, stdin: TextIO, data: Mapping[str, Any]) -> Texts:
    """Return the texts from the command line, `--file` or stdin.

    Columns default to those in `data`, the arguments of the run's data source.
    """
    if arguments.file is None:
        return from_arguments(arguments.texts) if arguments.texts else from_stdin(stdin)
    return from_file(arguments.file, request_for(arguments.file, data, **column_options(arguments)))


def column_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name, None) for name in COLUMN_OPTIONS}
