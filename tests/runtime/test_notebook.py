"""A run in a Jupyter cell writes one output, which is updated in place."""

from pathlib import Path

import nbclient
import nbformat
import pytest
from support.api import TINY
from support.limits import HANG_SECONDS

CHOICES = [each for each in TINY if not each.startswith("progress")]
CELLS = (
    f"import imdbcls\nconfig = imdbcls.compose(*{CHOICES}, 'epochs=3')",
    "run = imdbcls.run(config)",
    "run.plot()",
    "import logging; logging.getLogger('imdbcls').warning('later')",
)


@pytest.mark.slow
def test_a_run_has_one_output_that_does_not_grow(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=HANG_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (shown,) = notebook.cells[1].outputs
    assert shown.output_type == "display_data" and set(shown.data) == {"text/plain", "text/html"}
    text, html = shown.data["text/plain"], shown.data["text/html"]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert "test accuracy" in text and "\x1b" not in text and html.startswith("<pre ") and "\u2501" not in text
    (figure,) = notebook.cells[2].outputs
    assert "image/png" in figure.data
    (message,) = notebook.cells[3].outputs
    assert message.output_type == "stream" and message.text == "warning: later\n"
