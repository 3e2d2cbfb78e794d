"""Every JSON and Parquet file has a format_version. Other versions are reported in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from support.api import TINY
from support.studies import HEADS, make_study

import imdbcls
from imdbcls import compare
from imdbcls.comparison.study import read_study
from imdbcls.errors import UserError
from imdbcls.reevaluation import evaluate
from imdbcls.runs.format_version import OtherVersionError, require_version


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run, whose encoder is frozen, and its cache. Tests must not change the run."""
    folder = tmp_path_factory.mktemp("finished_runs")
    choices = ("backbone.freeze=true", f"data.cache_dir={folder}/cache", f"runs_dir={folder}/runs")
    imdbcls.run(imdbcls.compose(*TINY, *choices))
    return folder


@pytest.fixture
def run(finished_runs: Path, tmp_path: Path) -> Path:
    """Return the run's folder in a copy of all runs."""
    shutil.copytree(finished_runs / "runs", tmp_path / "runs")
    (folder,) = (tmp_path / "runs" / "default").iterdir()
    return folder


def set_version(path: Path, version: Any) -> None:
    content = json.loads(path.read_text())
    content.pop("format_version", None)
    path.write_text(json.dumps(content if version is None else {**content, "format_version": version}))


def train_again(run: Path) -> None:
    imdbcls.run(imdbcls.compose(*TINY, "backbone.freeze=true", f"runs_dir={run.parents[1]}"))


def test_every_json_and_parquet_file_has_its_version(finished_runs: Path) -> None:
    assert compare.main([str(finished_runs / "runs" / "default"), "--output", str(finished_runs / "compared")]) == 0
    found = set()
    for path in finished_runs.rglob("*"):
        if path.suffix == ".json" and path.parent.name != "backbone":  # transformers writes these files
            assert json.loads(path.read_text())["format_version"] in (1, 2, 3), path
            found.add(path.name)
        elif path.suffix == ".parquet":
            assert parquet.read_schema(path).metadata[b"format_version"] == b"1", path
            found.add(path.name)
    assert found == {
        *("result.json", "comparison.json", "manifest.json", "state.json", "entry.json"),
        *("test.parquet", "validation.parquet"),
    }


OTHER_VERSIONS: dict[str, tuple[Any, str]] = {
    "none": (None, "was written by an earlier version of imdbcls (no format_version)"),
    "newer": (2, "was written by a newer version of imdbcls (format_version 2; this version reads 1)"),
    "older": (0, "was written by an earlier version of imdbcls (format_version 0; this version reads 1)"),
    "a string": ("1\x1b[2J", "has format_version 1\\x1b[2J, which is not a whole number"),
    "a boolean": (True, "has format_version True, which is not a whole number"),
}


@pytest.mark.parametrize(("version", "sentence"), OTHER_VERSIONS.values(), ids=list(OTHER_VERSIONS))
def test_other_version_is_explained_in_one_sentence(version: Any, sentence: str) -> None:
    with pytest.raises(OtherVersionError) as raised:
        require_version({} if version is None else {"format_version": version}, 1)
    assert str(raised.value) == sentence


@pytest.mark.parametrize("command", [train_again, lambda run: evaluate(run, "test"), imdbcls.load_run])
def test_run_with_other_version_is_neither_opened_nor_changed(command: Callable[[Path], Any], run: Path) -> None:
    set_version(run / "result.json", None)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError) as raised:
        command(run)
    assert str(raised.value) == (
        f"{run}/result.json was written by an earlier version of imdbcls (no format_version). Use the imdbcls "
        f"version that wrote it, or move {run} away and train the run again."
    )
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def test_checkpoints_with_other_version_are_not_resumed(run: Path) -> None:
    (run / "result.json").unlink()
    for name in ("last", "best"):
        set_version(run / "checkpoints" / name / "manifest.json", 7)
    with pytest.raises(UserError, match=r"manifest.json was written by a newer version .*move .* away and run its"):
        train_again(run)


def test_runs_with_other_versions_are_left_out_with_one_sentence(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", HEADS[:3], seeds=[0, 1, 2], num_documents=60)
    for path in study.glob("cls-*/result.json"):
        set_version(path, None)
    set_version(study / "lstm-s1" / "result.json", 2)
    found = read_study(study)
    assert [(group.name, group.seeds) for group in found.groups] == [("lstm", [0, 2]), ("transformer", [0, 1, 2])]
    assert list(found.left_out) == [
        "cls-s0, cls-s1, cls-s2 are left out: their result.json was written by an earlier version of imdbcls (no "
        "format_version). To compare them, use the version of imdbcls that trained them, or train them again.",
        "lstm-s1 is left out: its result.json was written by a newer version of imdbcls (format_version 2; this "
        "version reads 1). To compare it, use the version of imdbcls that trained it, or train it again.",
    ]
    for path in study.glob("*/result.json"):
        set_version(path, None)
    with pytest.raises(UserError, match=r"no finished run to compare. cls-s0, .*, lstm-s1 and 4 more are left out"):
        read_study(study)
