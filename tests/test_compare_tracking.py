"""`--wandb`: a real offline run of type `comparison`, read back from its own file."""

import json
import time
from pathlib import Path

import pytest
from make_study import HEADS, make_study

from imdbcls.comparison.figures import figures_of
from imdbcls.comparison.groups import read_study
from imdbcls.comparison.page import page_html
from imdbcls.comparison.report import compare_study
from imdbcls.comparison.tables import tables_of
from imdbcls.tracking.comparison import log_comparison, settings_beside, unique


def test_comparison_run_holds_tables_figures_and_page(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    comparison, reading = compare_study(read_study(study), 0.003)
    figures = figures_of(comparison)
    tables = tables_of(comparison)
    settings = settings_beside({}) | {"mode": "offline"}
    log_comparison("heads", study, tables, figures, page_html(comparison, figures, reading), **settings)

    (run,) = (study / "wandb").glob("offline-run-*-comparison-heads")
    expected = (b"comparison/page", b"comparison/figures/differences", b"comparison/tables/ranking")
    # wandb's own process writes the offline log, and may end a moment after `finish` returns.
    deadline = time.monotonic() + 20
    while not all(name in (run / "run-comparison-heads.wandb").read_bytes() for name in expected):
        assert time.monotonic() < deadline, "the log never held the comparison"
        time.sleep(0.1)
    media = run / "files" / "media"
    assert list(media.rglob("page_*.html"))
    ranking = next(file for file in media.rglob("*.table.json") if "ranking" in file.name)
    table = json.loads(ranking.read_text())
    assert [row[1] for row in table["data"]] == [group["name"] for group in comparison["groups"]]


def test_table_columns_get_names_that_differ() -> None:
    assert unique(["", "ECE", "95 %", "loss", "95 %"]) == ["rank", "ECE", "ECE 95 %", "loss", "loss 95 %"]
