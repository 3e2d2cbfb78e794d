"""`python -m imdbcls.train` as a real command: its run folder, skipped runs, sweeps with a failing job, fast errors."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from pyarrow import parquet
from support.runs import TINY, Launch
from support.wandb_logs import inspect

import imdbcls
from imdbcls.config.checking import typed
from imdbcls.data.sample import read_sample
from imdbcls.runs.identity import run_name

pytestmark = pytest.mark.slow

# Keys that other tools read. Keys may be added but not renamed.
RESULT_KEYS = {
    *("status", "study", "name", "head", "backbone", "seed", "config_hash", "group_hash", "split_hash", "best_epoch"),
    "metric",
    *("val/accuracy", "test/accuracy", "test/f1", "test/auroc", "test/ece", "test/loss", "test/brier"),
    *("temperature", "temperature_reason", "val/ece_calibrated", "test/ece_calibrated"),
    *("parameters", "head_parameters", "train_seconds", "documents_per_second", "tokens_per_second", "peak_memory_mb"),
    *("versions", "environment", "git_commit", "finished_at", "group_label", "command"),
}
TRAIN_FIGURES = {
    *("train/loss", "train/lr", "train/grad_norm", "train/documents_per_second", "train/tokens_per_second"),
}
VALIDATION_FIGURES = {"val/loss", "val/accuracy", "val/f1", "val/auroc", "val/ece", "val/brier"}
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "pandas", "sklearn", "tokenizers", "wandb", "scipy")


def read_result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


# The run folder.


def test_run_folder_contains_exactly_the_documented_files(finished: Path) -> None:
    assert re.fullmatch(r"lstm-s0-[0-9a-f]{8}", finished.name)
    working_folder = finished.parents[2]
    assert [path.name for path in working_folder.iterdir()] == ["runs"], "nothing is written outside the run folder"
    assert {path.name for path in finished.parent.iterdir()} == {finished.name}
    visible = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert visible == {"config.yaml", "metrics.jsonl", "result.json", "predictions", "checkpoints", "backbone"}
    for checkpoint in ("last", "best"):
        assert (finished / "checkpoints" / checkpoint / "model.safetensors").is_file()
    suffixes = {path.suffix for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes == {".yaml", ".jsonl", ".json", ".parquet", ".safetensors"}, "no pickle files"


def test_resolved_config_is_saved(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert "${" not in (finished / "config.yaml").read_text()
    assert (config["head"]["name"], config["max_length"], config["data"]["train_limit"]) == ("lstm", 64, 64)
    assert config["optimizer"]["lr"] == config["lr"] and config["data"]["order_seed"] == config["seed"]


def test_the_result_has_every_key(finished: Path) -> None:
    result = read_result(finished)
    assert result.keys() >= RESULT_KEYS
    assert (result["status"], result["study"], result["name"]) == ("done", "demo", finished.name)
    assert (result["head"], result["backbone"], result["seed"]) == ("lstm", "tiny", 0)
    assert finished.name.endswith(result["config_hash"][:8])
    assert result["group_hash"] != result["config_hash"] and len(result["split_hash"]) >= 16
    assert result["head_parameters"] == 2 * (4 * 64 * 64 + 4 * 64) + 2 * 64 + 2
    assert result["parameters"] > result["head_parameters"]
    assert result["metric"] == "accuracy" and result["best_epoch"] in (1, 2)
    assert 0 <= result["test/brier"] <= 2
    for key in ("accuracy", "f1", "auroc", "ece"):
        assert 0 <= result[f"test/{key}"] <= 1 and 0 <= result[f"val/{key}"] <= 1
    assert 0 < result["test/loss"] < 5
    for key in ("train_seconds", "documents_per_second", "tokens_per_second", "peak_memory_mb"):
        assert result[key] > 0
    assert result["tokens_per_second"] / result["documents_per_second"] <= 64
    assert result["versions"].keys() >= {"python", "torch", "transformers", "imdbcls"}
    assert result["watched_test"] is False


def test_metrics_have_one_record_per_logged_step_and_epoch(finished: Path) -> None:
    points = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == list(range(1, 9)), "each step once"
    assert [point["epoch"] for point in points] == [step / 4 for step in range(1, 9)]
    validation = [point for point in points if point["step"] in (4, 8)]
    for point in points:
        expected = TRAIN_FIGURES | (VALIDATION_FIGURES if point in validation else set())
        assert point.keys() == {"step", "epoch"} | expected
    assert not any(key.startswith("test/") for point in points for key in point), (
        "the test split is evaluated once, at the end"
    )
    best = validation[read_result(finished)["best_epoch"] - 1]
    assert best["val/accuracy"] == read_result(finished)["val/accuracy"]


def test_predictions_contain_every_document(finished: Path) -> None:
    source = read_sample()
    assert source.test is not None
    result = read_result(finished)
    label_of = {
        **dict(zip(source.train.ids, source.train.labels.tolist(), strict=True)),
        **dict(zip(source.test.ids, source.test.labels.tolist(), strict=True)),
    }
    assert source.train.clusters is not None and source.test.clusters is not None
    film_of = dict(
        zip((*source.train.ids, *source.test.ids), (*source.train.clusters, *source.test.clusters), strict=True)
    )
    for split, prefix, count in (("test", "test", 40), ("validation", "val", 24)):
        table = parquet.read_table(finished / "predictions" / f"{split}.parquet")
        columns = ["id", "label", "prediction", "probabilities", "tokens", "cluster", "part"]
        assert table.column_names == columns
        assert json.loads(table.schema.metadata[b"label_names"]) == ["negative", "positive"] == result["label_names"]
        rows = table.to_pylist()
        assert len(rows) == count == len({row["id"] for row in rows})
        for row in rows:
            assert row["label"] == label_of[row["id"]] and row["cluster"] == film_of[row["id"]]
            assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-12)
            assert row["prediction"] == row["probabilities"].index(max(row["probabilities"]))
            assert row["tokens"] >= 2
        assert max(row["tokens"] for row in rows) > 64, "tokens are counted before truncation"
        accuracy = sum(row["prediction"] == row["label"] for row in rows) / count
        assert result[f"{prefix}/accuracy"] == accuracy
        loss = -sum(math.log(row["probabilities"][row["label"]]) for row in rows) / count
        assert result[f"{prefix}/loss"] == pytest.approx(loss, rel=1e-9)


def test_the_same_command_again_runs_nothing(launch: Launch, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    before.pop(finished / ".lock")
    options = ("head=lstm", *TINY, "tracker=none", "runs_dir=runs", "study=demo")
    done = launch(finished.parents[2], "train", *options, fresh=True, PYTHONPROFILEIMPORTTIME="1")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert line.startswith(f"runs/demo/{finished.name} is already done") and "Nothing was run" in line
    assert imported(done.stderr) & set(HEAVY) == set(), "a finished run is skipped without heavy imports"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_keys_without_effect_on_the_result_do_not_change_the_name() -> None:
    def name(*overrides: str) -> str:
        with initialize_config_module("imdbcls.conf", version_base="1.3"):
            return run_name(typed(compose("config", [*TINY, *overrides])))

    same = ("study=x", "tracker=none", "progress=none", "runs_dir=/x", "data.cache_dir=/x", "trainer.log_every=9")
    assert {name(override) for override in same} == {name()}
    assert name("optimizer.head_lr=2") == name("optimizer.head_lr=2.0") != name("optimizer.head_lr=2.5")
    different = ("lr=1", "seed=1", "head=max", "data.order_seed=1", "optimizer.eps=1", "data.test_limit=41", "epochs=1")
    assert name("metric=accuracy") == name() != name("metric=f1")
    assert len({name(override) for override in different} | {name()}) == len(different) + 1


# Sweeps.


@pytest.fixture(scope="module")
def sweep(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run a multirun of three heads, and log it to W&B offline. The second job finds a damaged checkpoint."""
    folder = tmp_path_factory.mktemp("sweep")
    damaged = folder / "runs" / "three" / name_of("weight_avg") / "checkpoints" / "last"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{}")
    return folder, launch(folder, "train", "--multirun", *SWEEP, expect=1)


SWEEP = ("head=cls,weight_avg,lstm", *TINY, "epochs=1", "study=three")


def name_of(head: str) -> str:
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        return run_name(typed(compose("config", [f"head={head}", *SWEEP[1:]])))


def test_failing_job_does_not_stop_the_others(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = sweep
    runs = folder / "runs" / "three"
    names = [name_of(head) for head in ("cls", "weight_avg", "lstm")]
    assert {path.name for path in runs.iterdir()} == {*names, "wandb", "multirun.yaml"}
    statuses = [read_result(runs / name)["status"] for name in names]
    assert statuses == ["done", "failed", "done"]
    failed = read_result(runs / names[1])
    assert "manifest.json" in failed["error"] and (failed["head"], failed["study"]) == ("weight_avg", "three")
    assert "Traceback" not in done.stderr, "a damaged file is not a bug"

    *_, cls, weight_avg, lstm, count, publishing = done.stderr.splitlines()
    for line, name, state in ((cls, names[0], "done"), (weight_avg, names[1], "failed"), (lstm, names[2], "done")):
        assert line.split()[:2] == [name, state]
    accuracy = read_result(runs / names[0])["test/accuracy"]
    assert f"test {accuracy:.2%}" in cls
    assert "manifest.json" in weight_avg
    assert count == "1 of 3 runs are not done. Run the same command again for the missing runs."
    assert publishing.endswith("wandb sync runs/three/wandb && python -m imdbcls.compare runs/three --wandb")
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_the_jobs_of_a_sweep_have_the_same_documents_and_batches(
    sweep: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    runs = [sweep[0] / "runs" / "three" / name_of(head) for head in ("cls", "lstm")]
    first, second = (read_result(run) for run in runs)
    assert first["split_hash"] == second["split_hash"] and first["config_hash"] != second["config_hash"]
    tables = [parquet.read_table(run / "predictions" / "test.parquet") for run in runs]
    for column in ("id", "label", "tokens"):
        assert tables[0][column].equals(tables[1][column])


def wandb_log(folder: Path, name: str) -> dict[str, Any]:
    (log,) = folder.glob(f"runs/three/wandb/offline-run-*/run-{name}-*.wandb")
    records = map(json.loads, inspect(log).splitlines())
    (opened,) = [record["run"] for record in records if record["type"] == "run"]
    return {**json.loads(inspect(log, "--summary")), "group": opened["run_group"], "log": log}


def test_each_job_has_its_own_log_in_wandb(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = sweep
    for head in ("cls", "lstm"):
        name = name_of(head)
        log, result = wandb_log(folder, name), read_result(folder / "runs" / "three" / name)
        assert (log["name"], log["group"], log["state"]) == (name, "three", "finished")
        assert log["run_id"] == f"{name}-{(folder / 'runs/three/wandb/study.id').read_text()}"
        assert log["tags"] == [head, "tiny", "sample"]
        assert {key: log["summary"].get(key) for key in result} == result
        config = yaml.safe_load((folder / "runs" / "three" / name / "config.yaml").read_text())
        config["tracker"]["project"] = None  # the file has the project that W&B used
        added = {key: result[key] for key in ("group_hash", "group_label", "git_commit", "command")}
        assert log["config"] == {**config, **added}
        for key in ("test/recall/positive", "test/precision/negative", "test/f1/positive"):
            assert 0 <= log["summary"][key] <= 1
        assert log["summary"]["view/test_mistakes"]["nrows"] == round((1 - result["test/accuracy"]) * 40)
    assert "wandb leet runs/three/wandb" in done.stderr and "wandb sync runs/three/wandb" in done.stderr
    command = [sys.executable, "-m", "wandb", "leet", "inspect", str(log["log"]), "--json", "--summary"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == json.loads(inspect(log["log"], "--summary")), "users read the log with `wandb`"


def test_data_card_is_logged_only_by_the_first_run_of_a_study(
    sweep: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = sweep
    logged = "runs/three/wandb/offline-run-*/files/media/table/view/data_{}*.table.json"
    (sizes,) = (json.loads(path.read_text()) for path in folder.glob(logged.format("sizes")))
    assert sizes["columns"] == ["split", "train", "validation", "test"]
    assert sizes["data"][0] == ["documents", "64", "24", "40"]
    (histogram,) = (json.loads(path.read_text()) for path in folder.glob(logged.format("histogram")))
    assert sum(documents for _, documents in histogram["data"]) == 64 + 24 + 40
    summaries = [wandb_log(folder, name_of(head))["summary"] for head in ("cls", "lstm")]
    assert sum("view/data_lengths" in summary for summary in summaries) == 1


def test_same_sweep_again_runs_only_missing_jobs(
    sweep: tuple[Path, subprocess.CompletedProcess[str]], launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "runs").symlink_to(sweep[0] / "runs")
    runs = tmp_path / "runs" / "three"
    logs = set(runs.glob("wandb/offline-run-*"))
    failed = runs / name_of("weight_avg")
    (failed / "checkpoints" / "last" / "manifest.json").unlink()
    (failed / "checkpoints" / "last").rmdir()
    done = launch(tmp_path, "train", "--multirun", *SWEEP, fresh=True, PYTHONPROFILEIMPORTTIME="1")
    assert done.stderr.count("is already done") == 2
    before, job = done.stderr.split("head weight_avg on ")
    heavy = {*HEAVY, "requests", "torchmetrics"} - {"datasets"}
    assert imported(before) >= heavy, "the sweep imports what all its jobs need"
    late = imported_modules(job)
    assert not late & heavy and not any(name.startswith("wandb.sdk.launch") for name in late)
    assert read_result(failed)["status"] == "done" and "error" not in read_result(failed)
    assert len(set(runs.glob("wandb/offline-run-*")) - logs) == 1
    assert "not done" not in done.stderr


def test_job_with_a_mistake_does_not_end_the_sweep(launch: Launch, tmp_path: Path) -> None:
    """Each value is valid with the first value of the other keys. Only the combination in the fourth job is invalid."""
    sweep = ("batch_size=16,2,32", "trainer.micro_batch_size=2,16")
    options = (*TINY, "epochs=1", "data.train_limit=32", "tracker=none", "study=s")
    done = launch(tmp_path, "train", "--multirun", *sweep, *options, expect=1)
    mistake = "trainer.micro_batch_size=16 is larger than batch_size=2. Reduce it, or set it to null."
    assert f"imdbcls: {mistake}" in done.stderr.splitlines()
    assert "documents, 1 epoch\n" in done.stderr
    *jobs, count = done.stderr.splitlines()[-7:]
    assert count == "1 of 6 runs are not done. Run the same command again for the missing runs."
    refused = jobs.pop(3)
    assert "batch_size=2" in refused and "failed  " in refused and refused.endswith(mistake)
    assert all(job.split()[1] == "done" for job in jobs)
    assert len(list(tmp_path.glob("runs/s/*/result.json"))) == 5


# Fast answers.


def imported_modules(import_times: str) -> set[str]:
    """List the modules that a command imported, from its stderr with PYTHONPROFILEIMPORTTIME."""
    return {line.rpartition("|")[2].strip() for line in import_times.splitlines() if line.startswith("import time:")}


def imported(import_times: str) -> set[str]:
    """Return the top-level modules that a command imported."""
    modules = {name.split(".")[0] for name in imported_modules(import_times)}
    assert {"hydra", "imdbcls"} <= modules
    return modules


def answer(launch: Launch, folder: Path, *arguments: str, expect: int) -> tuple[str, str]:
    """Return the output of a command that must have no heavy imports: stdout, and stderr without the import times."""
    done = launch(folder, "train", *arguments, expect=expect, fresh=True, PYTHONPROFILEIMPORTTIME="1")
    assert imported(done.stderr) & set(HEAVY) == set()
    assert os.listdir(folder) == [], "the command writes no files"
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.stdout, "\n".join(messages)


def test_config_is_shown_without_heavy_imports(launch: Launch, tmp_path: Path) -> None:
    out, err = answer(launch, tmp_path, "head=lstm", "lr=3e-5", "--cfg", "job", expect=0)
    config = yaml.safe_load(out)
    assert (config["head"]["name"], float(config["lr"])) == ("lstm", 3e-5)
    assert (config["backbone"]["name"], config["data"]["name"]) == ("roberta-base", "imdb")
    assert err == ""


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("head=lstmm", ("attention, bilstm, cls, cls_mean, cnn", "transformer, weight_avg", "closest: lstm")),
        ("learning_rate=1", ("learning_rate: there is no such key",)),
        ("head.dropuot=0.5", ("head.dropuot: there is no such key", "closest: head.dropout")),
        ("lr=[1", ("lr=[1 is not readable as key=value",)),
        ("lr=-1", ("lr=-1 is not a number above 0.",)),
        ("data=files", ("data.train has no value: set",)),
        ("data.cache_dir=${nowhere}", ("data.cache_dir has no usable value", "nowhere")),
        ("experiment=quickstar", ("heads, original, quickstart, quickstart_study", "closest: quickstart")),
    ],
)
def test_mistake_is_reported_without_heavy_imports(
    mistake: str, words: tuple[str, ...], launch: Launch, tmp_path: Path
) -> None:
    for mode in ((), ("--multirun",)):
        out, err = answer(launch, tmp_path, *mode, mistake, expect=2)
        assert out == "" and len(err.splitlines()) == 1
        for word in words:
            assert word in err


def test_all_mistakes_are_listed(launch: Launch, tmp_path: Path) -> None:
    _, err = answer(launch, tmp_path, "epochs=0", "warmup=1.5", "precision=fp8", "data.truncation=middle", expect=2)
    for key in ("epochs=0", "warmup=1.5", "precision=fp8", "data.truncation=middle"):
        assert key in err
    assert len(err.splitlines()) == 4


def test_a_mistake_before_the_first_step_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty run folder would be listed as a failed run in every comparison. Existing files are kept."""
    monkeypatch.chdir(tmp_path)
    Path("one.csv").write_text("text,label\n" + "".join(f"film {row},good\n" for row in range(20)))
    choices = ("backbone=tiny", "data=files", "data.train=one.csv", "max_length=64", "tracker=none", "study=s")
    config = imdbcls.compose(*choices)
    with pytest.raises(imdbcls.UserError, match="every document has the label 'good'"):
        imdbcls.run(config)
    assert [path.name for path in tmp_path.iterdir()] == ["one.csv"]

    other = tmp_path / "runs" / "s" / "other"
    other.mkdir(parents=True)
    with pytest.raises(imdbcls.UserError, match="every document"):
        imdbcls.run(config)
    assert list((tmp_path / "runs" / "s").iterdir()) == [other]

    config.folder.mkdir()
    (config.folder / "metrics.jsonl").write_text('{"step": 10}\n')  # written by an earlier process
    with pytest.raises(imdbcls.UserError, match="every document"):
        imdbcls.run(config)
    assert read_result(config.folder)["status"] == "failed"
