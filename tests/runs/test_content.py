"""Runs are identified by the content of their files, not by paths; groups also by their documents."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.api import TINY
from support.small_models import make_folder

import imdbcls
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.data.sample import read_sample
from imdbcls.pretrain import pretrain, read_command
from imdbcls.runs import content
from imdbcls.runs.folder import run_folder
from imdbcls.runs.identity import choices_hash, config_hash, group_hash
from imdbcls.train import train
from imdbcls.training.trainer import Trainer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache the digests of new files too, because the files of a test are only seconds old."""
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "RACY_SECONDS", -1)
    return tmp_path / "cache" / "digests"


def write_csv(path: Path, number: int = 80) -> Path:
    source = read_sample().train
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = zip(source.texts[:number], source.labels[:number].tolist(), strict=True)
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def config(*overrides: str) -> Any:
    return imdbcls.compose("backbone=tiny", "data=files", *overrides)


def hashes(*overrides: str) -> tuple[str, str, str]:
    found = config(*overrides)
    return config_hash(found), group_hash(found), choices_hash(found)


def test_run_does_not_depend_on_how_a_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "work" / "c.csv")
    (tmp_path / "work" / "below").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "work" / "c.csv")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "work")
    (tmp_path / "scratch" / "job-17").mkdir(parents=True)
    shutil.copyfile(tmp_path / "work" / "c.csv", tmp_path / "scratch" / "job-17" / "other-name.csv")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ("c.csv", "./c.csv", "below/../c.csv", "../link.csv", f"{tmp_path}/elsewhere/c.csv", "~/work/c.csv")
    found = {hashes(f'data.train="{path}"') for path in (*paths, f"{tmp_path}/scratch/job-17/other-name.csv")}
    assert len(found) == 1
    monkeypatch.chdir(tmp_path)
    assert {hashes("data.train=work/c.csv")} == found


def test_different_content_gives_a_different_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = write_csv(tmp_path / "a" / "c.csv"), write_csv(tmp_path / "b" / "c.csv", 79)
    found = [hashes(f"data.train={first}")[:2], hashes(f"data.train={second}")[:2]]
    times = first.stat()
    first.write_bytes(first.read_bytes().replace(b"film", b"flim"))  # the same length
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    found.append(hashes(f"data.train={first}")[:2])
    found.append(hashes(f"data.train={first}", f"data.test={second}")[:2])
    assert len({each for pair in found for each in pair}) == 2 * len(found)


def test_folder_of_documents_is_identified_by_its_files(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "imdb", tmp_path / "other" / "reviews"]
    for folder in folders:
        write_csv(folder / "train" / "part.csv")
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text(str(folder))

    def found() -> list[str]:
        return [config_hash(imdbcls.compose("backbone=tiny", f"data.path={folder}")) for folder in folders]

    before = found()
    assert before[0] == before[1]
    os.mkfifo(folders[1] / "pipe")
    (folders[1] / "broken").symlink_to("nowhere")
    assert found() == before, "unreadable files are ignored"
    (folders[1] / "train" / "part.csv").rename(folders[1] / "train" / "more.csv")
    assert found()[0] == before[0] != found()[1]


def test_encoder_is_identified_by_its_weights_not_its_readme(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "first", "bert")
    second = shutil.copytree(first, tmp_path / "second")
    (second / "README.md").write_text("A copy.")

    def found(folder: Path) -> str:
        return group_hash(imdbcls.compose("backbone=roberta-base", f"backbone.path={folder}"))

    assert found(first) == found(second)
    weights = second / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert found(first) != found(second)


def test_strings_that_are_not_paths_are_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_csv(tmp_path / "c.csv")
    before = hashes(f"data.train={path}")
    for name in ("text", "label", "tiny", "files", "cls"):
        write_csv(tmp_path / name)
    assert hashes(f"data.train={path}") == before, "a column name is not treated as a file"
    assert content.content_hash("nowhere.csv") == "nowhere.csv"
    assert content.model_content_hash("FacebookAI/roberta-base") == "FacebookAI/roberta-base"
    assert content.content_hash("a\0b") == "a\0b"
    plugin = {"head": {"name": "mine", "embeddings": f"{tmp_path}/text"}, "lr": 1e-3}
    assert content.with_content_hashes(plugin)["head"] == {"name": "mine", "embeddings": content.content_hash("text")}


@pytest.mark.parametrize("key", ["text_separator", "text_column", "pair_column"])
def test_slash_in_a_separator_or_column_name_is_not_a_path(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data.text_separator=/` named the root folder, and each run read the names of all files on the disk."""
    monkeypatch.setattr(content, "content_hash", lambda path: pytest.fail(f"{path} was read"))
    data = {"name": "files", key: "/", "source": {key: f"{tmp_path}/"}}
    assert content.with_content_hashes({"data": data}) == {"data": data}


def test_output_folders_are_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders and caches are large and change."""
    read: list[str] = []
    monkeypatch.setattr(content, "sha256", lambda path: read.append(Path(path).name) or "0" * 64)
    path = write_csv(tmp_path / "c.csv")
    write_csv(tmp_path / "runs" / "old" / "run" / "big.csv")
    places = (f"runs_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/runs")
    assert hashes(f"data.train={path}", *places) == hashes(f"data.train={path}")
    assert set(read) == {"c.csv"}


def test_file_is_hashed_once_and_damaged_digest_is_recomputed(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return sha256(path)

    sha256 = content.sha256
    monkeypatch.setattr(content, "sha256", counting)
    path = write_csv(tmp_path / "c.csv")
    first = hashes(f"data.train={path}")
    assert hashes(f"data.train={path}") == first and len(read) == 1
    (kept,) = own_cache.iterdir()
    raw = kept.read_text()
    kept.write_text(("0" if raw[0] != "0" else "1") + raw[1:])
    assert hashes(f"data.train={path}") == first and len(read) == 2
    monkeypatch.setattr(
        content, "RACY_SECONDS", 3600
    )  # the file has just changed, and another change in the same tick would go undetected
    shutil.rmtree(own_cache)
    assert hashes(f"data.train={path}") == first
    assert not own_cache.exists()


@pytest.mark.parametrize("kind", ("run", "failed run", "trial", "pretraining"))
def test_file_that_changes_during_training_does_not_change_the_identity_of_the_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(tmp_path / "c.csv")
    documents, fit = path.read_bytes(), Trainer.fit
    small = [choice for choice in TINY if not choice.startswith("data")]
    asked = read_command([*small, "data=files", f"data.train={path}", f"runs_dir={tmp_path}"])
    chosen = imdbcls.compose(*small, "data=files", f"data.train={path}", f"runs_dir={tmp_path}")
    folder = run_folder(asked.config if kind == "pretraining" else chosen)

    def command() -> dict[str, Any]:
        if kind == "pretraining":
            return pretrain(asked.config, asked.settings)
        return train(chosen, (lambda epoch, value: False) if kind == "trial" else None)

    def changing_fit(*arguments: Any) -> None:
        path.write_bytes(documents + b"a late row,1\n")
        if kind == "failed run":
            raise RuntimeError("the head failed")
        fit(*arguments)

    monkeypatch.setattr(Trainer, "fit", changing_fit)
    if kind == "failed run":
        with pytest.raises(RuntimeError):
            command()
    else:
        command()
    recorded = folder.result()
    assert recorded is not None
    path.write_bytes(documents)
    assert recorded["config_hash"] == config_hash(asked.config if kind == "pretraining" else chosen)
    if kind != "failed run":
        assert command() == recorded, "the finished run must not be trained again"


def test_only_runs_on_the_same_documents_form_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_csv(tmp_path / "c.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pq.write_table(pa.table({"text": [r["text"] for r in rows], "label": [r["label"] for r in rows]}), "c.parquet")
    write_csv(tmp_path / "other.csv", 76)
    small = [choice for choice in TINY if not choice.startswith("data")]

    def train(train_path: str, *choices: str) -> imdbcls.FinishedRun:
        return imdbcls.run(
            imdbcls.compose(*small, "data=files", f"data.train={train_path}", f"runs_dir={tmp_path}", *choices)
        )

    runs = [train("c.csv", "seed=0"), train(str(path), "seed=1"), train("c.parquet", "seed=2")]
    train(str(path), "seed=0", "head=mean"), train("other.csv", "seed=0")
    assert len({run.result["split_hash"] for run in runs}) == 1
    capsys.readouterr()
    assert train(f"{tmp_path}/c.csv", "seed=0").folder == runs[0].folder
    assert "is already done" in capsys.readouterr().err
    study = read_study(tmp_path / "default")
    assert sorted(sorted(group.seeds) for group in study.groups) == [[0], [0], [0, 1, 2]]
    pairs = compare_study(study, METRICS["accuracy"], 0.01).pairs
    assert sum(pair.problem is None for pair in pairs) == 1, "runs on other documents are not compared"
