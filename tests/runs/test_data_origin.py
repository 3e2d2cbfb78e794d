"""A run folder may name only shipped data sources and those that the user has trained on. Hub ids are owner/name."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imdbcls.config.overrides import compose
from imdbcls.config.paths import wrong_paths
from imdbcls.config.schema import Config
from imdbcls.config.section import partial_config
from imdbcls.construction import read_texts
from imdbcls.data.hub import read_hub
from imdbcls.data.imdb import read_imdb
from imdbcls.errors import UserError
from imdbcls.runs.data_origin import is_remembered, read_from, remember_source, require_own_source
from imdbcls.runtime.hub import download
from imdbcls.runtime.hub_ids import is_hub_id

RUN = Path("received")


def with_source(source: dict[str, Any]) -> Config:
    return partial_config(Config, {"data": {"source": source}}, set())


COLUMNS = {"text_column": "text", "label_column": "label", "id_column": None, "group_column": None}
FILES = {"_target_": "imdbcls.data.files.read_files", "validation": None, "test": None, **COLUMNS}
IMDB = {"_target_": "imdbcls.data.imdb.read_imdb"}
SPLITS = {"config": None, "train_split": "train", "validation_split": None, "test_split": "test"}
HUB = {"_target_": "imdbcls.data.hub.read_hub", **SPLITS, **COLUMNS}
# Built-in loaders of `datasets`, and other names that it does not treat as the repository of an owner.
NOT_HUB_IDS = (
    *("pandas", "csv", "json", "text", "arrow", "parquet", "imagefolder", "webdataset", "sql", "generator", "eval"),
    *(
        "imdb",
        "buckets/someone",
        "datasets/squad",
        "a/b/c",
        "a//b",
        "a/..",
        "../a",
        "a b/c",
        "a/b\n",
        "http://a/b",
        "é/a",
    ),
    *("", None, 5, ["a/b"], "-a/b", "a/b--c", "x" * 100 + "/a"),
)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide an empty working directory and a separate cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "cache"))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("name", NOT_HUB_IDS, ids=repr)
def test_only_owner_and_name_are_passed_to_the_libraries(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_: pytest.fail("the name reached datasets"))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it reached the hub's client")
    )
    for split in ("train", "test"):
        Path(f"{split}.pkl").write_bytes(pickle.dumps(Evil()))
    assert not is_hub_id(name)
    recorded = compose(["backbone=tiny", "data=sample"]).plain()
    arguments: dict[str, Any] = {**SPLITS, **COLUMNS}
    for attempt in (
        lambda: read_hub(name, **arguments),
        lambda: read_imdb(name),
        lambda: download(name),
        lambda: read_texts({**recorded, "data": {**recorded["data"], "source": {**IMDB, "path": name}}}, "x"),
        lambda: read_texts({**recorded, "data": {**recorded["data"], "source": {**HUB, "path": name}}}, "x"),
    ):
        with pytest.raises(UserError):
            attempt()
    for source in ({**IMDB, "path": name}, {**HUB, "path": name}):
        (sentence,) = wrong_paths(with_source(source))
        assert sentence.startswith("data.path=")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("name", ["stanfordnlp/imdb", "FacebookAI/roberta-base", "a/b", "0x/_y.z-1"])
def test_owner_and_name_is_a_hub_id(name: str) -> None:
    assert is_hub_id(name)
    assert list(wrong_paths(with_source({**HUB, "path": name}))) == []


def test_folder_named_like_a_builder_is_read_as_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    seen: list[str] = []

    def load(path: str, config: str | None) -> None:
        seen.append(path)
        raise ValueError("seen")

    monkeypatch.setattr(datasets, "load_dataset", load)
    Path("csv").mkdir()
    with pytest.raises(UserError, match="could not be loaded: seen"):
        read_hub("csv", **SPLITS, **COLUMNS)  # type: ignore[arg-type]
    assert seen == [str(Path("csv").absolute())]


def test_documents_named_only_in_the_run_folder_are_not_read() -> None:
    Path("diary.csv").write_text("text,label\n")
    Path("imdb").mkdir()
    for source in (
        {**FILES, "train": "diary.csv"},
        {**FILES, "train": "nowhere.csv", "test": str(Path("diary.csv").absolute())},
        {**IMDB, "path": "imdb"},
        {**HUB, "path": "someone/private"},
        {**HUB, "path": "stanfordnlp/imdb"},  # differs from conf/data/imdb.yaml
        {"_target_": "mine.read", "url": "http://somewhere"},
    ):
        with pytest.raises(UserError, match=r"^received reads its documents from .*--trust-source .*--data PATH"):
            require_own_source(source, RUN)


def test_source_used_in_training_is_allowed_in_any_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.csv").write_text("text,label\n")
    relative, absolute = {**FILES, "train": "mine.csv"}, {**FILES, "train": str(Path("mine.csv").absolute())}
    remember_source(relative)
    for source in (relative, absolute):
        require_own_source(source, RUN)
    # In another working directory, the same relative path is a different file.
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    require_own_source(absolute, RUN)
    Path("mine.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"mine\.csv, but no training on this machine"):
        require_own_source(relative, RUN)
    remember_source({**HUB, "path": "someone/private"})
    require_own_source({**HUB, "path": "someone/private"}, RUN)
    assert not is_remembered({**HUB, "path": "someone/other"})


def test_sample_needs_no_marker_but_folder_with_hub_name_does() -> None:
    require_own_source({"_target_": "imdbcls.data.sample.read_sample"}, RUN)
    require_own_source({**IMDB, "path": "stanfordnlp/imdb"}, RUN)
    Path("stanfordnlp/imdb").mkdir(parents=True)
    with pytest.raises(UserError, match="--trust-source"):
        require_own_source({**IMDB, "path": "stanfordnlp/imdb"}, RUN)


def test_a_missing_file_is_reported_by_its_reader() -> None:
    require_own_source({**FILES, "train": "nowhere.csv"}, RUN)


def test_unwritable_cache_gets_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "blocked"))
    source = {**HUB, "path": "someone/private"}
    remember_source(source)
    assert not is_remembered(source)


def test_own_copy_replaces_the_path() -> None:
    Path("mine").mkdir()
    theirs = {**FILES, "train": "/home/them/train.csv", "test": "/home/them/sub/test.csv"}
    assert read_from(theirs, "mine") == {**theirs, "train": "mine/train.csv", "test": "mine/test.csv"}
    assert read_from({**FILES, "train": "/x/a.csv"}, "b.csv")["train"] == "b.csv"
    assert read_from({**IMDB, "path": "/x"}, "mine") == {**IMDB, "path": "mine"}
    with pytest.raises(
        UserError, match=r"--data=b.csv is not a folder. Pass the folder that contains train.csv, test.csv"
    ):
        read_from(theirs, "b.csv")
    with pytest.raises(UserError, match="--data=mine can only be used for runs with data=files, imdb or hub"):
        read_from({"_target_": "imdbcls.data.sample.read_sample"}, "mine")


def test_own_copy_has_subfolders_if_two_files_have_the_same_name() -> None:
    Path("mine").mkdir()
    theirs = {
        **FILES,
        "train": ["/x/tr/a.csv", "/x/tr/b.csv"],
        "validation": "/x/tr/b.csv",
        "test": "/x/te/../te/b.csv",
    }
    copy = {"train": ["mine/tr/a.csv", "mine/tr/b.csv"], "validation": "mine/tr/b.csv", "test": "mine/te/b.csv"}
    assert read_from(theirs, "mine") == {**theirs, **copy}
    patterns = {**FILES, "train": "tr/*.csv", "test": "../te/*.csv"}
    here = Path.cwd().name
    assert read_from(patterns, "mine") == {**patterns, "train": f"mine/{here}/tr/*.csv", "test": "mine/te/*.csv"}
    same = {**FILES, "train": "x/a.csv", "test": "x/a.csv"}
    assert read_from(same, "mine") == {**same, "train": "mine/a.csv", "test": "mine/a.csv"}
    with pytest.raises(UserError, match=r"Pass the folder that contains tr/a\.csv, tr/b\.csv, te/b\.csv"):
        read_from(theirs, "b.csv")


def test_search_stops_in_a_folder_with_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Path(f"deep/{number}/a").mkdir(parents=True)
    monkeypatch.setattr("imdbcls.data.imdb.MAX_ENTRIES", 9)
    with pytest.raises(UserError, match=r"data\.path=deep contains more than 9 files and folders"):
        read_imdb("deep")


def test_archive_member_over_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.data.imdb.MAX_MEMBER_BYTES", 10_000)
    with tarfile.open("a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        member.size = 20_000
        archive.addfile(member, io.BytesIO(bytes(20_000)))
    with pytest.raises(UserError, match=r"train/pos/0_9\.txt has 20,000 bytes; at most 10,000 are allowed"):
        read_imdb("a.tar.gz")
