"""The page shows texts only if the documents have the split hash of the run, and never reads them from the network."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.limits import HANG_SECONDS
from support.studies import HEADS, make_study

from imdbcls.compare import main
from imdbcls.data.files import read_files
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus

COLUMNS = {"text_column": "text", "label_column": "label", "id_column": None, "group_column": None}
SETTINGS = {
    **dict.fromkeys(SPLIT_SETTINGS),
    **{"validation_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0, "validate_on_train": False},
}
SECRET = "my diary"


def write_documents(folder: Path) -> dict[str, Any]:
    """Write a CSV file per split, and return the arguments of the reader."""
    for split, count in (("train", 60), ("test", 200)):
        rows = [f"{SECRET} {split} page {row},{row % 2}\n" for row in range(count)]
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(rows))
    return {"train": str(folder / "train.csv"), "validation": None, "test": str(folder / "test.csv"), **COLUMNS}


def study_on(folder: Path, data: dict[str, Any], split_hash: str, ids: list[str] | None = None) -> Path:
    """Make a study whose configs and results say that its runs were trained on this data."""
    name = data["name"]
    data = data | {"source": {"_target_": f"imdbcls.data.{name}.read_{name}", **data["source"]}}
    study = make_study(folder / "study", HEADS[:2], seeds=[0, 1], num_documents=200, split_hash=split_hash)
    for run in study.glob("*-s*"):
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"data": data | SETTINGS}))
        if ids is not None:
            file = run / "predictions" / "test.parquet"
            table = pq.read_table(file)
            pq.write_table(table.set_column(0, "id", pa.array(ids)), file)
    return study


def test_documents_of_the_run_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_documents(tmp_path)
    corpus = make_corpus(read_files(**source), **SETTINGS)
    study = study_on(tmp_path, {"name": "files", "source": source}, corpus.split_hash, list(corpus.test.ids))
    assert main([str(study)]) == 0
    assert f"{SECRET} test page" in (study / "comparison.html").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_private_file_named_by_an_untrusted_run_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_documents(tmp_path)
    ids = list(make_corpus(read_files(**source), **SETTINGS).test.ids)
    study = study_on(tmp_path, {"name": "files", "source": source}, "0123456789abcdef", ids)
    assert main([str(study)]) == 0
    assert "differ from the run's documents: the split hash is different" in capsys.readouterr().err
    written = [path for path in study.rglob("comparison*") if path.is_file()]
    assert {path.name for path in written} == {
        *(f"comparison.{ending}" for ending in ("html", "json", "md", "tex", "csv")),
        "comparison_pairs.csv",
    }
    assert not [path for path in written if SECRET in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("data", ["imdb", "hub", "folder"])
def test_untrusted_run_causes_no_network_access(data: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        (tmp_path / "folder").mkdir()
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: {url}/train.csv\n---\n"
        (tmp_path / "folder" / "README.md").write_text(readme)
        splits = {"config": None, "train_split": "train", "validation_split": None, "test_split": "test"}
        sections = {
            "imdb": {"name": "imdb", "source": {"path": "stanfordnlp/imdb"}},
            "hub": {"name": "hub", "source": {"path": "someone/private", **splits, **COLUMNS}},
            "folder": {"name": "hub", "source": {"path": str(tmp_path / "folder"), **splits, **COLUMNS}},
        }
        study = study_on(tmp_path, sections[data], "0123456789abcdef")
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "imdbcls.compare", str(study)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG_SECONDS)
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: the page will not show document texts: data.path=")
    assert done.stderr.count("\n") == 1


def test_control_characters_in_a_path_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_on(tmp_path, {"name": "imdb", "source": {"path": "\x1b]0;title\x07"}}, "0123456789abcdef")
    assert main([str(study)]) == 0
    assert not set("\x1b\x07") & set(capsys.readouterr().err)
