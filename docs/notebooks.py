"""Run the notebooks in `docs/pages/notebooks` and save their outputs: `python docs/notebooks.py`.

Each notebook runs in an empty folder of its own. The documentation shows the saved outputs.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent / "pages" / "notebooks"
TIMEOUT = 600  # seconds for one cell
FIGURES = "%config InlineBackend.print_figure_kwargs = {'dpi': 60, 'bbox_inches': None}\n"  # for small files


def executed(path: Path, folder: Path) -> NotebookNode:
    """Run all cells of a notebook in `folder`, and return it with their outputs. An error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    source, first.source = first.source, FIGURES + first.source
    client = NotebookClient(
        notebook, timeout=TIMEOUT, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "IMDBCLS_CACHE": "cache"})  # a relative path, because messages contain it
    first.source = source
    notebook.metadata.pop("language_info", None)  # the version of Python
    return notebook


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        with TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)
        print(path.name, file=sys.stderr)


if __name__ == "__main__":
    main()
