"""The fake W&B server with the real client: what a client sends, `wandb.Api` reads back."""

from pathlib import Path

from support.fake_wandb import FakeWandb

CLIENT = """
import pathlib
import wandb

run = wandb.init(project="p", group="g", job_type="train", config={"head": {"name": "cls"}}, name="n", tags=["a"])
print("a line of output")
for step in range(1, 21):
    run.log({"step": step, "val/accuracy": step / 20}, step=step)
run.log({"table": wandb.Table(columns=["a"], data=[[1], [2]])}, step=20)
pathlib.Path("data.txt").write_text("data")
predictions = wandb.Artifact("predictions", "predictions", metadata={"rows": 1})
predictions.add_file("data.txt")
run.log_artifact(predictions, aliases=["best"])
dataset = wandb.Artifact("data", "dataset", metadata={"split_hash": "x"})
dataset.add_reference("https://example.org/data", checksum=False)
run.use_artifact(dataset)
run.alert("Finished", "All is well.")
run.finish()

api = wandb.Api()
assert api.default_entity == api.viewer.username == "someone"
read = api.run(f"someone/p/{run.id}")
assert (read.state, read.config, read.summary["val/accuracy"]) == ("finished", {"head": {"name": "cls"}}, 1.0)
assert [point["step"] for point in read.scan_history()] == list(range(1, 21))
assert "output.log" in [file.name for file in read.files()]
assert sorted(each.type for each in read.logged_artifacts()) == ["predictions", "run_table"]
assert [each.metadata["split_hash"] for each in read.used_artifacts()] == ["x"]
filters = {"$and": [{"group": "g"}, {"jobType": "train"}, {"config.head.name": "cls"}]}
assert [each.id for each in api.runs("someone/p", filters=filters)] == [run.id]
assert not list(api.runs("someone/p", filters={"group": "other"}))
read.config["group_label"] = "cls"
read.update()
assert api.run(f"someone/p/{run.id}").config["group_label"] == "cls"

artifact = api.artifact("someone/p/predictions:best")
assert (artifact.version, artifact.metadata) == ("v0", {"rows": 1})
assert pathlib.Path(artifact.download("copy"), "data.txt").read_text() == "data"
artifact.aliases.append("paper")
artifact.save()
assert set(api.artifact("someone/p/predictions:paper").aliases) == {"best", "latest", "paper"}
"""

VIEWS = """
import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

import wandb

wandb.Api().create_project("p", "someone")
plot = reports.LinePlot(x="step", y=["val/accuracy"])
runs = reports.Runset(entity="someone", project="p", filters="Group = 'g'")
grid = reports.PanelGrid(runsets=[runs], panels=[plot])
report = reports.Report(project="p", entity="someone", title="A report", blocks=[grid])
report.save()
assert reports.Report.from_url(report.url).title == "A report"
section = workspaces.Section(name="Curves", panels=[plot])
workspace = workspaces.Workspace(entity="someone", project="p", name="first", sections=[section])
workspace.save()
again = workspaces.Workspace.from_url(workspace.url)
again.name = "second"
again.save()
"""


def run_client(code: str, server: FakeWandb, folder: Path) -> None:
    server.run_client(["-c", code], folder)
    assert [each for each in server.requests() if "error" in each or "unknown_fields" in each] == []


def test_runs_and_artifacts_are_stored_and_read_back(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    run_client(CLIENT, fake_wandb, tmp_path)
    run = fake_wandb.run("n")
    assert (run.group, run.job_type, run.tags, run.state, run.exit_code) == ("g", "train", ["a"], "finished", 0)
    assert fake_wandb.steps(run) == list(range(1, 21))
    assert any("a line of output" in line for line in run.console)
    assert [each["title"] for each in run.alerts] == ["Finished"]
    (predictions,) = fake_wandb.artifacts("predictions")
    assert (predictions.created_by, predictions.collection) == (run.id, "predictions")
    assert fake_wandb.file_in(predictions, "data.txt").read_text() == "data"
    (dataset,) = fake_wandb.artifacts("dataset")
    assert dataset.used_by == [run.id]
    assert dataset.contents["data"]["ref"] == "https://example.org/data"
    assert "output.log" in run.files and fake_wandb.file_of(run, "output.log").exists()


def test_workspaces_and_reports_are_stored_and_read_back(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    run_client(VIEWS, fake_wandb, tmp_path)
    (report,), (workspace,) = fake_wandb.reports(), fake_wandb.workspaces()
    assert (report.display_name, report.num_saves) == ("A report", 1)
    assert (workspace.display_name, workspace.num_saves) == ("second", 2)
    (section,) = workspace.spec["section"]["panelBankConfig"]["sections"]
    assert (section["name"], section["panels"][0]["config"]["metrics"]) == ("Curves", ["val/accuracy"])
