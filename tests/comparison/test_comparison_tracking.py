"""`--wandb` writes an offline run of type `comparison`, and `--report` needs a server."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.studies import HEADS, make_study

from imdbcls.compare import main
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.page import page_html
from imdbcls.comparison.views.reading_list import reading_list
from imdbcls.comparison.views.svg_figures import drawings_of
from imdbcls.errors import UserError
from imdbcls.tracking.log_comparison import log_comparison, tracker_settings, unique
from imdbcls.tracking.wandb_report import owner_of


def test_comparison_run_contains_tables_figures_and_page(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    found = read_study(study)
    comparison = compare_study(found, METRICS["accuracy"], 0.003)
    figures = drawings_of(figures_of(comparison))
    page = page_html(comparison, figures, reading_list(found, comparison, {}))
    log_comparison(comparison, figures, page, study, **tracker_settings({}) | {"mode": "offline"})

    (run,) = (study / "wandb").glob("offline-run-*-comparison-heads-*")
    expected = (b"comparison/page", b"comparison/figures/differences", b"comparison/tables/ranking")
    # The process of wandb that writes the offline log may end shortly after `finish` returns.
    deadline = time.monotonic() + 20
    while not all(name in next(run.glob("run-comparison-heads-*.wandb")).read_bytes() for name in expected):
        assert time.monotonic() < deadline, "the log does not contain the comparison"
        time.sleep(0.1)
    media = run / "files" / "media"
    assert list(media.rglob("page_*.html"))
    ranking = next(file for file in media.rglob("*.table.json") if "ranking" in file.name)
    table = json.loads(ranking.read_text())
    assert [row[1] for row in table["data"]] == [*(group.name for group in comparison.groups), "largest class"]


def test_table_columns_get_unique_names() -> None:
    assert unique(["", "ECE", "95 %", "loss", "95 %"]) == ["rank", "ECE", "ECE 95 %", "loss", "loss 95 %"]


def test_comparison_uses_project_and_entity_of_its_runs() -> None:
    shipped = tracker_settings({})
    assert (shipped["project"], shipped["entity"], shipped["mode"]) == ("imdbcls", None, "auto")
    own = tracker_settings(
        {"tracker": {"project": "films", "entity": "team", "connect_seconds": 10**9, "mode": "online"}}
    )
    assert own == shipped | {"project": "films", "entity": "team"}


def test_unreachable_server_makes_the_comparison_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    assert main([str(study), "--wandb"]) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert len(warnings) == 1 and "http://127.0.0.1:9 does not answer; this run is logged offline" in warnings[0]
    assert len(list(study.glob("wandb/offline-run-*-comparison-heads-*"))) == 1


def test_report_without_entity_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity=None))
    with pytest.raises(UserError, match=r"--report needs a W&B entity.*[Ss]et WANDB_ENTITY\.$"):
        owner_of(None)
    assert owner_of("team") == "team"
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me"))
    assert owner_of(None) == "me"


def test_report_without_server_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    assert main([str(study), "--report"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("imdbcls: --report needs ")
    assert (study / "comparison.html").exists()
