"""`--wandb` logs a run of type `comparison`, even without a server."""

import json
import time
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.studies import HEADS, make_study, rendered_study
from support.trackers import records, summary

from imdbcls.compare import main
from imdbcls.comparison.views.wording import headline
from imdbcls.tracking.log_comparison import figures_of_run, tracker_settings, unique
from imdbcls.tracking.panels import FIGURE
from imdbcls.tracking.publish import Alert, publish


def test_comparison_run_contains_tables_figures_and_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    rendered = rendered_study(study)
    capfd.readouterr()
    alert = Alert("heads is done", "6 of 6 runs are done.", "INFO")
    assert publish(rendered, study, tracker_settings({}) | {"mode": "offline"}, alert) == {}
    hint = f"Publish it with: wandb sync {study}/wandb && python -m imdbcls.compare {study} --wandb"
    assert capfd.readouterr().err.strip().startswith(f"W&B: the comparison is logged offline. {hint}")

    (run,) = (study / "wandb").glob("offline-run-*-comparison-heads-*")
    (log,) = run.glob("run-comparison-heads-*.wandb")
    # The process of wandb that writes the offline log may end shortly after `finish` returns.
    deadline = time.monotonic() + HANG_SECONDS
    while not (sent := records(log, "alert")):
        assert time.monotonic() < deadline, "the log does not contain the alert"
        time.sleep(0.1)
    assert [(each["title"], each["text"], each["level"]) for each in sent] == [(alert.title, alert.text, alert.level)]
    found = summary(log)
    expected = {FIGURE.format(name) for name in figures_of_run(rendered.comparison, rendered.drawings)}
    assert {"comparison/page", "comparison/tables/ranking", *expected} <= found["summary"].keys()
    assert found["summary"]["comparison/verdict"] == headline(rendered.comparison)
    assert (found["config"]["study"], found["config"]["group_label"]) == ("heads", "comparison")
    (opened,) = records(log, "run")
    assert (opened["run_group"], opened["job_type"]) == ("heads", "comparison")

    media = run / "files" / "media"
    assert list(media.rglob("page_*.html"))
    ranking = next(file for file in media.rglob("*.table.json") if "ranking" in file.name)
    table = json.loads(ranking.read_text())
    groups = [group.name for group in rendered.comparison.groups]
    assert [row[1] for row in table["data"]] == [*groups, "largest class"]
    (accuracy,) = media.rglob("accuracy_*.html")
    assert "<style>" in accuracy.read_text("utf-8"), "without its styles, a figure is black"
    (matrices,) = media.rglob("confusion_matrices_*.html")
    assert matrices.read_text("utf-8").count("<caption>") == len(groups)


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
    assert len(warnings) == 1 and "http://127.0.0.1:9 does not answer; the comparison is logged offline" in warnings[0]
    assert len(list(study.glob("wandb/offline-run-*-comparison-heads-*"))) == 1


def test_report_option_names_its_replacement(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--report"])
    assert ended.value.code == 2
    assert "--report was removed. Use --wandb, which also saves the report" in capfd.readouterr().err


def test_offline_comparison_names_the_command_that_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    study = make_study(tmp_path / "my heads", heads=HEADS[:2], num_documents=300)
    assert main([str(study), "--wandb"]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert line.endswith(f"Publish it with: wandb sync '{study}/wandb' && python -m imdbcls.compare '{study}' --wandb")
