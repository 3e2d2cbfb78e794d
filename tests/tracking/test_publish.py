"""The saved W&B workspace and report of a study, as they are sent to the server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_wandb import KEY, PATIENT, FakeWandb
from support.faults import FAULTY, faulty
from support.runs import ROOT, TINY, Launch, isolated
from support.studies import HEADS, make_study, rendered_study
from support.trackers import end, logs, summary, tracker
from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface
from wandb_workspaces.workspaces import internal

from imdbcls import compose
from imdbcls.comparison.views.rendered import Rendered
from imdbcls.comparison.views.wording import headline
from imdbcls.sweeps import publishing
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.tracking import publish
from imdbcls.tracking.log_comparison import figures_of_run, tracker_settings
from imdbcls.tracking.panels import (
    CONFUSION_TABLE,
    CONFUSIONS_TABLE,
    FIGURE,
    MISTAKES_TABLE,
    confusion_panels,
    sections_of,
)
from imdbcls.tracking.report import build_report
from imdbcls.tracking.runsets import group_colours, literal, runs_of, select_runs, swept_keys, wandb_id
from imdbcls.tracking.saved_views import Place, title_of
from imdbcls.tracking.workspace import build_workspace, view_name

GROUPED = {"groupBy": "group_label.value", "groupAgg": "mean", "groupArea": "minmax", "aggregate": True}
COMPARISON_ID = "comparison-heads-0123abcd"
PAGE = "https://wandb.ai/team/films/runs/comparison-heads-0123abcd"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return rendered_study(make_study(tmp_path_factory.mktemp("publish") / "heads", HEADS[:3], num_documents=300))


def parts(rendered: Rendered, folder: Path) -> tuple[Any, ...]:
    """Return the arguments of `build_workspace`."""
    figures = figures_of_run(rendered.comparison, rendered.drawings)
    sections = sections_of(rendered.comparison, figures, swept_keys(rendered.study))
    runs = select_runs(rendered.study, rendered.comparison, folder, COMPARISON_ID)
    return Place("team", "films", folder), rendered.comparison, sections, runs


def sent(model: Any) -> dict[str, Any]:
    """Return the specification that a workspace or a report sends to the server when it is saved."""
    found: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return found


def workspace_of(rendered: Rendered, folder: Path) -> dict[str, Any]:
    section: dict[str, Any] = sent(build_workspace(*parts(rendered, folder))._to_model())["section"]
    return section


def panels_of(workspace: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Map the title of each section to the type and the config of each of its panels."""
    sections = workspace["panelBankConfig"]["sections"]
    return {each["name"]: [(panel["viewType"], panel["config"]) for panel in each["panels"]] for each in sections}


def test_workspace_answers_each_question(rendered: Rendered, tmp_path: Path) -> None:
    panels = panels_of(workspace_of(rendered, tmp_path))
    assert list(panels) == [
        *("Verdict", "Test accuracy", "Training and validation", "Cost", "Settings"),
        *("Confusion matrices", "Calibration", "Mistakes"),
    ]
    ((kind, verdict),) = panels["Verdict"]
    assert kind == "Markdown Panel" and headline(rendered.comparison) in verdict["value"]
    assert "| lstm |" in verdict["value"] and verdict["value"].count("\n- ") >= 2, "it lists all groups and pairs"

    figure, bars, differences = panels["Test accuracy"]
    assert (figure[0], figure[1]["mediaKeys"]) == ("Media Browser", ["comparison/figures/accuracy"])
    assert bars[0] == "Bar Chart" and bars[1].items() >= {"metrics": ["test/accuracy"], **GROUPED}.items()
    assert differences[1]["mediaKeys"] == ["comparison/figures/differences"]

    curves = panels["Training and validation"]
    assert {kind for kind, _ in curves} == {"Run History Line Plot"}
    assert [curve["metrics"] for _, curve in curves] == [["val/accuracy"], ["val/loss"], ["train/loss"]]
    assert all(curve.items() >= {"xAxis": "step", **GROUPED}.items() for _, curve in curves)

    planes, *scatters = panels["Cost"]
    costs = ("latency_ms_p50", "train_seconds", "head_parameters", "peak_memory_mb")
    assert planes[1]["mediaKeys"] == [f"comparison/figures/cost_{cost}" for cost in costs]
    assert {kind for kind, _ in scatters} == {"Scatter Plot"}
    keys = ("train_seconds", "parameters", "head_parameters", "latency_ms.p50")
    assert [scatter["xAxis"] for _, scatter in scatters] == [f"summary:{key}" for key in keys]
    assert {scatter["yAxis"] for _, scatter in scatters} == {"summary:test/accuracy"}

    assert [kind for kind, _ in panels["Settings"]] == ["Parallel Coordinates Plot", "Run Comparer"]
    assert [kind for kind, _ in panels["Confusion matrices"]] == ["Media Browser", "Vega2"]
    assert panels["Confusion matrices"][0][1]["mediaKeys"] == ["comparison/figures/confusion_matrices"]

    reliability, ece = panels["Calibration"]
    assert reliability[1]["mediaKeys"] == [f"comparison/figures/reliability_{i}" for i in range(3)]
    assert ece[0] == "Bar Chart" and ece[1].items() >= {"metrics": ["test/ece"], **GROUPED}.items()

    table, _ = panels["Mistakes"]
    assert table[0] == "Weave" and '"val": "view/test_mistakes"' in json.dumps(table[1])


def test_workspace_shows_the_runs_of_the_study_and_its_comparison(rendered: Rendered, tmp_path: Path) -> None:
    workspace = workspace_of(rendered, tmp_path)
    (runset,) = workspace["runSets"]
    group, job_type = runset["filters"]["filters"]
    assert (group["key"], group["op"], group["value"]) == ({"section": "run", "name": "group"}, "=", "heads")
    assert (job_type["key"], job_type["op"]) == ({"section": "run", "name": "jobType"}, "IN")
    assert (job_type["value"], job_type["connector"]) == (["train", "comparison"], "AND")
    assert runset["grouping"] == [], "a scatter plot of grouped runs would not show the seeds"
    assert len(runset["pinnedRunIds"]) == 1, "the figures of the comparison are always loaded"
    assert runset["runFeed"]["columnOrder"][1:] == [
        *("config:group_label.value", "config:seed.value", "summary:val/accuracy", "summary:test/accuracy")
    ]
    token = (tmp_path / "wandb" / "study.id").read_text()
    colours = workspace["customRunColors"]
    best, second = rendered.comparison.groups[:2]
    assert [colours[f"{best.head}-s{seed}-{token}"] for seed in range(3)] == 3 * group_colours()[:1]
    assert colours[f"{second.head}-s0-{token}"] == group_colours()[1] and len(colours) == 9
    assert workspace["settings"]["maxRuns"] == 10


@pytest.mark.parametrize(
    "name", ["a=b", "a+b", "<x> = 'y' and \"z\"", "back\\slash", "größe_1", "x within_last 5 days"]
)
def test_filter_is_exact_for_every_name(name: str) -> None:
    """wandb-workspaces replaces `=` with `==` and `<` with `<=`, even in names."""
    group, job_type = expr.expr_to_filters(runs_of([name])).filters or []
    assert (group.key.name, group.op, group.value) == ("group", "=", name)
    assert job_type.value == ["train", "comparison"]
    several, _ = expr.expr_to_filters(runs_of([name, "heads"])).filters or []
    assert (several.op, several.value) == ("IN", sorted([name, "heads"]))
    assert literal("heads-1.b") == '"heads-1.b"'


def test_runs_of_a_renamed_study_are_found(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "first", HEADS[:2], num_documents=100).rename(tmp_path / "second")
    (runset,) = workspace_of(rendered_study(folder), folder)["runSets"]
    assert runset["filters"]["filters"][0]["value"] == ["first", "second"]


@pytest.mark.parametrize("damaged", [None, "https://[/team/films/runs/abc", "https://host/team/films"])
def test_a_damaged_link_of_a_run_is_ignored(damaged: str | None, rendered: Rendered, tmp_path: Path) -> None:
    run = rendered.comparison.groups[0].runs[0]
    assert wandb_id(tmp_path, replace(run, url="https://wandb.ai/team/films/runs/abc")) == "abc"
    assert wandb_id(tmp_path, replace(run, url=damaged)).startswith(f"{run.name}-")


def test_report_has_the_panels_of_the_workspace(
    rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "UA=="}})
    model = build_report(*parts(rendered, tmp_path), PAGE)._to_model()
    assert (model.display_name, model.description) == ("Comparison of heads", headline(rendered.comparison))
    blocks = sent(model)["blocks"]
    texts = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert headline(rendered.comparison) in texts[0] and PAGE in texts[1]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    found = [
        [(panel["viewType"], panel["config"]) for panel in grid["panelBankSectionConfig"]["panels"]] for grid in grids
    ]
    workspace = workspace_of(rendered, tmp_path)
    assert found == list(panels_of(workspace).values())[1:], "all sections except the verdict, which is a text"
    for grid in grids:
        (runset,) = grid["runSets"]
        assert runset["filters"] == workspace["runSets"][0]["filters"] and runset["project"]["name"] == "films"
        assert grid["customRunColors"].items() >= workspace["customRunColors"].items()
        places = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        cells = [
            (x, y)
            for at in places
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "no two panels overlap"


@pytest.mark.parametrize(
    ("metric", "curves"),
    [("f1", ["val/f1", "val/loss", "train/loss"]), ("loss", ["val/loss", "train/loss"])],
)
def test_panels_show_the_metric_of_the_comparison(metric: str, curves: list[str], tmp_path: Path) -> None:
    folder = make_study(tmp_path / "heads", HEADS[:2], num_documents=200)
    panels = panels_of(workspace_of(rendered_study(folder, metric), folder))
    title = next(title for title in panels if title.startswith("Test "))
    assert panels[title][1][1]["metrics"] == [f"test/{metric}"]
    assert [curve["metrics"][0] for _, curve in panels["Training and validation"]] == curves
    assert {scatter["yAxis"] for _, scatter in panels["Cost"][1:]} == {f"summary:test/{metric}"}
    columns = panels["Settings"][0][1]["columns"]
    assert [column["accessor"] for column in columns[-2:]] == [f"summary:val/{metric}", f"summary:test/{metric}"]


def test_studies_of_training_sizes_show_their_curves(tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    for size in (100, 200):
        make_study(folder / f"{size}", HEADS[:2], seeds=[0, 1], num_documents=200)
        for run in (folder / f"{size}").glob("*-s*"):
            config = yaml.safe_load((run / "config.yaml").read_text())
            config["data"]["train_limit"] = size
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            result = json.loads((run / "result.json").read_text())
            changes = {"group_hash": f"{result['group_hash']}-{size}", "train_documents": size}
            (run / "result.json").write_text(json.dumps(result | changes))
            run.rename(folder / f"{run.name}-{size}")
    panels = panels_of(workspace_of(rendered_study(folder), folder))
    ((_, sizes),) = panels["Training size"]
    assert sizes["mediaKeys"] == ["comparison/figures/sizes"]
    accessors = [column["accessor"] for column in panels["Settings"][0][1]["columns"]]
    assert "config:data.value.train_limit" in accessors


def test_axes_are_the_keys_that_were_swept(tmp_path: Path) -> None:
    """If several keys have equal values in each run, only the shortest is an axis. Keys of one head are left out."""
    folder = make_study(tmp_path / "heads", HEADS[:3], num_documents=100)
    for i, head in enumerate(HEADS[:3]):
        for run in folder.glob(f"{head.name}-s*"):
            config = yaml.safe_load((run / "config.yaml").read_text())
            lr = 10.0 ** -(3 + i)
            config |= {"lr": lr, "optimizer": {"_target_": f"torch.optim.O{i}", "lr": lr}, "epochs": 3}
            config["head"] |= {"name": head.name} | ({"bidirectional": True} if head.name == "lstm" else {})
            config["backbone"] = {"name": "minilm", "dropout": 0.1}
            config["tracker"] = {"project": f"p{i}"}
            (run / "config.yaml").write_text(yaml.safe_dump(config))
    rendered = rendered_study(folder)
    assert swept_keys(rendered.study) == {"lr": True, "head.name": False, "optimizer._target_": False, "seed": False}
    columns = panels_of(workspace_of(rendered, folder))["Settings"][0][1]["columns"]
    assert columns[0] == {"accessor": "config:lr.value", "displayName": "lr", "log": True}
    assert columns[1] == {"accessor": "config:head.value.name", "displayName": "head.name"}


def test_panels_use_keys_that_the_tracker_logs(
    rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracker(mode="offline") as run:
        end(run)
    logged = summary(logs()[0])["summary"]
    assert {MISTAKES_TABLE, CONFUSION_TABLE} <= logged.keys()
    figures = figures_of_run(rendered.comparison, rendered.drawings)
    keys = {
        key
        for panels in panels_of(workspace_of(rendered, tmp_path)).values()
        for _, panel in panels
        for key in panel.get("mediaKeys", ())
    }
    assert keys <= {FIGURE.format(name) for name in figures}


def test_many_classes_have_a_table_of_confusions_instead_of_a_chart() -> None:
    (chart,), (table,) = (confusion_panels([], num_classes) for num_classes in (100, 101))
    assert chart.query["summaryTable"]["tableKey"] == CONFUSION_TABLE
    assert table.table_name == CONFUSIONS_TABLE


def test_saved_views_of_another_project_are_not_replaced(tmp_path: Path) -> None:
    place = Place("team", "films", tmp_path)
    assert place.url("report") is None
    place.remember("report", "https://wandb.ai/team/films/reports/Comparison--Vmlldzox")
    place.remember("workspace", "https://wandb.ai/team/films?nw=abc")
    assert (place.url("report") or "").endswith("--Vmlldzox") and place.url("workspace") is not None
    assert Place("me", "films", tmp_path).url("report") is None
    (tmp_path / "wandb" / "published.json").write_text('{"report": "http://[", "workspace": 3}')
    assert place.url("report") is place.url("workspace") is None


def test_url_contains_the_whole_name_of_the_workspace() -> None:
    for _ in range(2000):  # one in 1,296 random ids of wandb_workspaces ends in "nw"
        name = view_name()
        assert internal._url_query_str_to_internal_name(internal._internal_name_to_url_query_str(name)) == name


def test_titles_have_no_symbols_that_the_server_rejects() -> None:
    assert title_of("Comparison of größe_1.b-c") == "Comparison of größe_1.b-c"
    assert title_of("a+b=c/d?e#f%g🎬\n") == "a_b_c_d_e_f_g__"
    assert len(title_of("x" * 200)) == 128


def sweep(launch: Launch, folder: Path, *arguments: str, expect: int = 0, **environment: str) -> list[str]:
    """Run a sweep of two heads and two seeds, and return the lines that follow the table of outcomes."""
    swept = ("--multirun", "head=cls,mean", "seed=0,1", "study=heads", "jobs=2")
    output = launch(folder, "train", *TINY, *swept, *arguments, expect=expect, **environment)
    assert output.stdout == ""
    lines = output.stderr.splitlines()
    last = max(i for i, line in enumerate(lines) if re.match(r"(cls|mean)-s\d-\w{8} +(done|failed)", line))
    return [line for line in lines[last + 1 :] if line]


@pytest.mark.slow
def test_online_sweep_publishes_its_comparison(launch: Launch, fake_wandb: FakeWandb, tmp_path: Path) -> None:
    """A sweep ends with three URLs and an alert. A second run of the command replaces what was published."""
    lines = sweep(launch, tmp_path, *PATIENT, **fake_wandb.environment)
    comparison = json.loads((tmp_path / "runs/heads/comparison.json").read_text())
    assert comparison["headline"] in lines and (tmp_path / "runs/heads/comparison.html").exists()
    urls = dict(line.removeprefix("W&B ").split() for line in lines[-3:])
    assert list(urls) == ["comparison", "workspace", "report"]
    (run,) = fake_wandb.runs("comparison")
    assert urls["comparison"] == f"{fake_wandb.url}/someone/imdbcls/runs/{run.name}" and run.state == "finished"
    assert run.summary["comparison/verdict"] == comparison["headline"]
    (alert,) = run.alerts
    assert (alert["title"], alert["severity"]) == ("heads: the sweep is done", "INFO")
    assert alert["text"] == f"4 of 4 runs are done. {comparison['headline']}"

    trained = fake_wandb.runs("train")
    labels = {each.display_name.split("-")[0]: each.values()["group_label"] for each in trained}
    assert len(trained) == 4 and labels == {"cls": "cls", "mean": "mean"}, "names must equal the comparison's"
    assert {each.summary["group_label"] for each in trained} == {"cls", "mean"}
    (workspace,), (report,) = fake_wandb.workspaces(), fake_wandb.reports()
    assert report.display_name == workspace.display_name == "Comparison of heads"
    colours = workspace.spec["section"]["customRunColors"]
    assert colours.keys() == {each.name for each in trained}
    panels = panels_of(workspace.spec["section"])
    media = {key for each in panels.values() for _, panel in each for key in panel.get("mediaKeys", ())}
    assert media <= run.summary.keys(), "each figure of the workspace is in the comparison run"
    for each in trained:
        used = ("val/accuracy", "test/accuracy", "train_seconds", "parameters", "head_parameters")
        assert all(isinstance(each.summary[key], int | float) for key in used) and each.summary["latency_ms"]["p50"] > 0
    for kind, panel in panels["Test accuracy"] + panels["Calibration"]:
        if kind == "Bar Chart":
            assert all(set(panel["metrics"]) <= each.summary.keys() for each in trained)

    again = sweep(launch, tmp_path, *PATIENT, **fake_wandb.environment)
    assert again[-3:] == lines[-3:]
    assert len(fake_wandb.runs("comparison")) == len(fake_wandb.workspaces()) == len(fake_wandb.reports()) == 1
    assert (fake_wandb.workspaces()[0].num_saves, fake_wandb.reports()[0].num_saves) == (2, 2)
    assert fake_wandb.errors() == []


@pytest.mark.slow
def test_frozen_or_silent_server_gives_one_warning_and_no_error(
    launch: Launch, serve: Callable[..., FakeWandb], tmp_path: Path
) -> None:
    server = serve()
    sweep(launch, tmp_path, *PATIENT, "tracker.wandb.publish=false", **server.environment)
    assert server.runs("comparison") == [], "publish=false must send nothing"
    server.freeze()
    for broken in (server, serve(is_deaf=True)):
        lines = sweep(launch, tmp_path, **broken.environment)
        (warning,) = [line for line in lines if line.startswith("warning: ")]
        assert "the comparison is logged offline. Publish it with: wandb sync runs/heads/wandb && python" in warning
        assert not any(line.startswith("W&B ") for line in lines)


@pytest.mark.slow
def test_server_that_stops_answering_gives_one_warning(
    rendered: Rendered,
    fake_wandb: FakeWandb,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """If the server freezes while the workspace is saved, the comparison is published, but no report is sent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in fake_wandb.environment.items():
        monkeypatch.setenv(name, value)
    save = publish.save_workspace

    def freeze_and_save(*arguments: Any) -> str:
        fake_wandb.freeze()
        return save(*arguments)

    monkeypatch.setattr(publish, "save_workspace", freeze_and_save)
    urls = publish.publish(rendered, tmp_path / "heads", tracker_settings({}))
    assert list(urls) == ["comparison"]
    warnings = [line for line in capfd.readouterr().err.splitlines() if line]
    missing, failed = warnings
    assert "9 of 9 runs are not on the server. Upload them with: wandb sync" in missing
    assert failed.startswith("warning: W&B: could not save the workspace (no result after 10 s). Publish again with: ")


IMPORTED = """
import sys
from types import SimpleNamespace
from imdbcls.tracking import publish
class Steps:
    def take(self, what, step):
        assert set(publish.CLIENTS) <= set(sys.modules), what
publish.select_runs = lambda *_: SimpleNamespace(ids={})
given = SimpleNamespace(study=None, comparison=None, folder=None, id="")
assert publish.publish_views(Steps(), given, given, given) == {}
"""


def test_the_time_limits_of_the_steps_do_not_include_imports() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_step_that_fails_does_not_stop_the_next_one_unless_it_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    steps = publish.Steps("Publish again with: x")
    assert steps.take("save the workspace", lambda: 1 / 0) is None
    assert steps.take("save the report", lambda: "url") == "url"
    assert steps.take("send an alert", lambda: time.sleep(3600), limit=0.1) is None
    assert steps.take("name the groups", lambda: pytest.fail("not skipped")) is None
    steps.report()
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        "warning: W&B: could not save the workspace and send an alert (division by zero; no result after 0 s). "
        "Publish again with: x"
    )


@pytest.mark.slow
def test_failed_runs_raise_the_level_of_the_alert(launch: Launch, fake_wandb: FakeWandb, tmp_path: Path) -> None:
    """A study with failures is still published. If nothing can be compared, W&B gets a failed run with an alert."""
    dropouts = (*FAULTY, "head.dropout=0.1,0.2", "+head.only_dropout=0.2", "study=partly", "seed=0,1", "--multirun")
    variables = {**faulty("raise"), "PYTHONPATH": str(ROOT / "tests/support/plugins"), **fake_wandb.environment}
    output = launch(tmp_path, "train", *TINY, *dropouts, expect=1, **variables)
    (run,) = fake_wandb.runs("comparison")
    (alert,) = run.alerts
    assert (alert["title"], alert["severity"]) == ("partly: 2 of 4 runs are not done", "WARN")
    assert alert["text"].startswith("2 of 4 runs are done. ") and "failed: " in alert["text"]
    assert "W&B report" in output.stderr

    all_fail = (*FAULTY, "seed=0,1", "study=none", "--multirun")
    output = launch(tmp_path, "train", *TINY, *all_fail, expect=1, **variables)
    run = fake_wandb.runs("comparison")[-1]
    assert [(each["title"], each["severity"]) for each in run.alerts] == [("none: the sweep failed", "ERROR")]
    assert (run.group, run.state) == ("none", "failed") and len(fake_wandb.reports()) == 1
    last = output.stderr.splitlines()[-1]
    assert last.startswith("warning: runs/none is not published: ") and "no finished run" in last


@pytest.mark.slow
def test_offline_sweep_names_the_command_that_publishes_it(
    launch: Launch, fake_wandb: FakeWandb, tmp_path: Path
) -> None:
    """The command is run as it is printed, and the server then has the runs, the workspace and the report."""
    lines = sweep(launch, tmp_path)
    command = lines[-1].removeprefix("Upload the runs and publish the comparison: ")
    assert command == "wandb sync runs/heads/wandb && python -m imdbcls.compare runs/heads --wandb"
    assert not (tmp_path / "runs/heads/comparison.html").exists()
    environment = isolated(tmp_path / "home") | fake_wandb.environment
    environment["PATH"] = (
        f"{Path(sys.executable).parent}:{Path(shutil.which('wandb') or '').parent}:{os.environ['PATH']}"
    )
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[-3:]] == ["comparison", "workspace", "report"]
    assert {each.values()["group_label"] for each in fake_wandb.runs("train")} == {"cls", "mean"}
    assert len(fake_wandb.workspaces()) == len(fake_wandb.reports()) == 1


@pytest.mark.slow
def test_each_study_of_a_sweep_has_its_own_outcomes(launch: Launch, tmp_path: Path) -> None:
    """Two studies with one run each have nothing to compare, although the sweep has two runs."""
    swept = (*TINY, "--multirun", "study=one,other", "tracker=wandb", "tracker.mode=offline", "epochs=1", "jobs=2")
    assert "publish the comparison" not in launch(tmp_path, "train", *swept, "head=cls").stderr
    done = launch(tmp_path, "train", *swept, "head=cls,mean")
    commands = re.findall(r"Upload the runs and publish the comparison: wandb sync (\S+)", done.stderr)
    assert commands == ["runs/one/wandb", "runs/other/wandb"]


def test_nothing_is_published_for_searches_single_runs_and_stopped_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    published: list[Path] = []
    monkeypatch.setattr(publishing, "publish_study", lambda folder, *_: published.append(folder))
    stopped, search, done = Sweep(), Sweep(), Sweep()
    for each in (stopped, search, done):
        each.studies[tmp_path] = compose("tracker.mode=offline")
    stopped.stopped_by, search.is_search = 15, True
    for each in (stopped, search, done):
        publishing.publish_sweep(each)
    assert published == [tmp_path]
    monkeypatch.undo()

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    outcomes = [Outcome("cls-s0", "done", "")]
    capfd.readouterr()
    for arguments in (["tracker=none"], ["tracker.mode=disabled"], ["tracker.wandb.publish=false"]):
        publishing.publish_study(tmp_path, compose(*arguments), outcomes)
    publishing.publish_study(tmp_path, compose("tracker.mode=offline"), outcomes)
    assert capfd.readouterr().err == ""
    assert publishing.counts([]) == "", "there are no new outcomes"
    publishing.publish_study(tmp_path, compose("tracker.mode=online"), outcomes)
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith(f"warning: {tmp_path} is not published: ") and "no finished run" in lines[-1]
