"""Write all files of a comparison. If a file cannot be written, change none of them."""

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.csv_table import csv_text, pairs_csv_text
from imdbcls.comparison.views.json_document import comparison_json
from imdbcls.comparison.views.latex import latex_text
from imdbcls.comparison.views.markdown import markdown_text
from imdbcls.comparison.views.svg import standalone
from imdbcls.errors import UserError
from imdbcls.runtime.atomic import replacing, sync


def write_files(
    folder: Path, comparison: Comparison, drawings: Mapping[str, str], page: str, paper_figures: Mapping[str, bytes]
) -> None:
    """Write comparison.{json,md,tex,csv,html}, comparison_pairs.csv and the figures.

    `drawings` maps figure names to SVG text. `paper_figures` maps file names to the contents of PDF and PNG files.
    Raise UserError if a file cannot be written.
    """
    figures = folder / "comparison_figures"
    texts = {
        folder / "comparison.json": comparison_json(comparison),
        folder / "comparison.md": markdown_text(comparison),
        folder / "comparison.tex": latex_text(comparison),
        folder / "comparison.csv": csv_text(comparison),
        folder / "comparison_pairs.csv": pairs_csv_text(comparison),
        folder / "comparison.html": page,
        **{figures / f"{name}.svg": standalone(drawing) for name, drawing in drawings.items()},
    }
    contents = {path: text.encode() for path, text in texts.items()}
    contents |= {figures / name: content for name, content in paper_figures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if figures.is_symlink():  # in an untrusted study, it could be a link to any folder
            figures.unlink()
        figures.mkdir(exist_ok=True)
        write_together(contents)
    except OSError as error:
        path = error.filename or folder
        raise UserError(
            f"{path} cannot be written ({error.strerror}). No file of the comparison was changed. Free disk space, "
            "make the folder writable, or choose another folder with --output."
        ) from error


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace all files. If a file cannot be written, raise OSError and leave all files unchanged."""
    if folder := next((path for path in contents if path.is_dir()), None):  # a rename to it would fail in the end
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder))
    with ExitStack() as stack:
        for path, content in contents.items():
            temporary = stack.enter_context(replacing(path))
            temporary.write_bytes(content)
            sync(temporary)  # some file systems report a full disk only here
