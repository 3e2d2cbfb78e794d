"""Run the first two commands of the README exactly as written, against a local hub, and check their W&B logs."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hub_server import hub
from support.limits import HANG_SECONDS
from support.runs import PERSONAL, ROOT
from support.small_models import make_folder
from support.trackers import records, summary

from imdbcls.data.sample import read_sample

ONE_RUN = "python -m imdbcls.train head=lstm lr=3e-5"
SWEEP = "python -m imdbcls.train --multirun head=cls,weight_avg,lstm"
CARD = """---
configs:
- config_name: plain_text
  default: true
  data_files:
  - split: train
    path: plain_text/train-*
  - split: test
    path: plain_text/test-*
dataset_info:
  config_name: plain_text
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
---
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a small random RoBERTa and 160 documents under the names of the real model and the real dataset."""
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "imdb"
    (data / "plain_text").mkdir(parents=True)
    (data / "README.md").write_text(CARD)
    sample = read_sample()
    for split, documents, count in (("train", sample.train, 120), ("test", sample.test, 40)):
        texts, labels = documents.texts[:count], documents.labels[:count]
        table = pa.table({"text": list(texts), "label": [int(label) for label in labels]})
        pq.write_table(table, data / "plain_text" / f"{split}-00000-of-00001.parquet")
    model = make_folder(folder / "roberta", "roberta")
    with hub({"models/FacebookAI/roberta-base": model, "datasets/stanfordnlp/imdb": data}) as url:
        yield url


def run_as_written(command: str, folder: Path, endpoint: str) -> str:
    """Run a command of the README in an empty folder, as a new user would. Return its stderr."""
    home = folder / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
    # HF_UPDATE_DOWNLOAD_COUNTS=0 prevents requests to another server, which counts downloads.
    variables = {"HOME": str(home), "HF_ENDPOINT": endpoint, "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_logged(run: Path) -> dict[str, Any]:
    """Assert that the only W&B log of a run agrees with the files in the run folder. Return the config in the log."""
    result = json.loads((run / "result.json").read_text())
    (log,) = run.parent.glob(f"wandb/offline-run-*/run-{run.name}-*.wandb")
    shown = summary(log)
    assert (shown["state"], shown["project"], shown["name"]) == ("finished", "imdbcls", run.name)
    assert (result["status"], shown["summary"]["status"]) == ("done", "done")
    for name in ("val/accuracy", "test/accuracy", "test/loss"):
        assert shown["summary"][name] == result[name]
    (opened,) = records(log, "run")
    assert (opened["run_group"], opened["job_type"]) == ("default", "train")
    history = [record["item"] for record in records(log, "history")]
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {point["step"]: point for point in history if "epoch" in point}
    assert points and sorted(logged) == [point["step"] for point in points]
    for point in points:
        assert {name: logged[point["step"]][name] for name in point} == point
    return shown["config"]


@pytest.mark.slow
def test_one_run_as_written(tmp_path: Path, endpoint: str) -> None:
    messages = run_as_written(ONE_RUN, tmp_path, endpoint)
    (run,) = tmp_path.glob("runs/default/lstm-*")
    config = assert_logged(run)
    assert (config["head"]["name"], config["lr"], config["backbone"]["name"]) == ("lstm", 3e-5, "roberta-base")
    assert (config["data"]["path"], config["max_length"]) == ("stanfordnlp/imdb", 512)
    assert "wandb leet runs/default/wandb" in messages


@pytest.mark.slow
def test_a_sweep_as_written(tmp_path: Path, endpoint: str) -> None:
    messages = run_as_written(SWEEP, tmp_path, endpoint)
    heads = {}
    for head in ("cls", "weight_avg", "lstm"):
        (run,) = tmp_path.glob(f"runs/default/{head}-s0-*")
        heads[head] = assert_logged(run)["head"]["name"]
    assert heads == {head: head for head in heads}
    assert len(list(tmp_path.glob("runs/default/wandb/offline-run-*"))) == 3
    assert "Compare the runs: python -m imdbcls.compare runs/default" in messages


def test_the_readme_contains_both_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ONE_RUN in text and SWEEP in text
