"""The notebooks of the documentation run without errors, and their saved outputs are complete."""

import json
import runpy
from pathlib import Path

import nbformat
import pytest
from support.runs import ROOT

NOTEBOOKS = sorted((ROOT / "docs/pages/notebooks").glob("*.ipynb"))
MAX_BYTES = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    """If a cell fails, running the notebook raises its error. The outputs have the same kinds as the saved outputs."""
    executed = runpy.run_path(str(ROOT / "docs/notebooks.py"))["executed"](path, tmp_path)
    assert kinds(executed) == kinds(nbformat.read(path, as_version=4))
    assert "Traceback" not in json.dumps(executed) and '"stderr"' not in json.dumps(executed)


def kinds(notebook: nbformat.NotebookNode) -> list[list[tuple[str, ...]]]:
    """Return the kinds of the outputs of each cell."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[(output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs] for cell in cells]


def test_saved_notebooks_are_small_and_name_no_folder_of_a_machine() -> None:
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        text = path.read_text("utf-8")
        assert path.stat().st_size < MAX_BYTES and "/tmp" not in text and "/home" not in text
