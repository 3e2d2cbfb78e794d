"""Write the files of a comparison: all of them, or none."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.csv_table import csv_text
from imdbcls.comparison.views.json_document import json_text
from imdbcls.comparison.views.markdown import markdown_text
from imdbcls.comparison.views.svg import standalone
from imdbcls.errors import UserError
from imdbcls.runs.files import replacing, sync


def write_files(folder: Path, comparison: Comparison, figures: Mapping[str, str], page: str) -> None:
    """Write comparison.{json,md,csv,html} and the figures. Raises UserError if one cannot be written."""
    drawings = folder / "comparison_figures"
    texts = {
        folder / "comparison.json": json_text(comparison),
        folder / "comparison.md": markdown_text(comparison),
        folder / "comparison.csv": csv_text(comparison),
        folder / "comparison.html": page,
        **{drawings / f"{name}.svg": standalone(figure) for name, figure in figures.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if drawings.is_symlink():  # a stranger's study could point it anywhere
            drawings.unlink()
        drawings.mkdir(exist_ok=True)
        write_together(texts)
    except OSError as error:
        place = error.filename or folder
        raise UserError(
            f"{place} cannot be written ({error.strerror}); no file of the comparison was changed. Make room for it, "
            "or give another folder with --output."
        ) from error


def write_together(texts: Mapping[Path, str]) -> None:
    """Write files so that either all are new or, if one cannot be written (OSError), all are as before."""
    with ExitStack() as stack:
        for path, text in texts.items():
            temporary = stack.enter_context(replacing(path))
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)  # a full disk may show only now
