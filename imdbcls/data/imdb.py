"""Read `data=imdb`: the Large Movie Review Dataset (Maas et al., ACL 2011), in any of its four common forms."""

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from annotated_types import doc

from imdbcls.data.documents import Source
from imdbcls.data.hub import read_hub, read_hub_texts
from imdbcls.data.lines import decode_utf8
from imdbcls.data.local_files import local_imdb
from imdbcls.data.parquet import read_parquet
from imdbcls.data.sources import make_source
from imdbcls.data.table import Table
from imdbcls.errors import UserError

MAX_ENTRIES = 200_000  # files and folders below data.path; aclImdb has 100,000
MAX_MEMBER_BYTES = 2**26  # size of a file in the archive; the largest has a few MB
LABELS = {"0": "negative", "1": "positive"}

_REVIEW = re.compile(r"(?:^|/)((train|test)/(pos|neg)/(\d+)_\d+\.txt)$")
_URLS = re.compile(r"(?:^|/)(train|test)/urls_(pos|neg)\.txt$")
_TITLE = re.compile(r"/title/(tt\d+)")
_UNLABELLED = re.compile(r"(?:^|/)train/unsup/(\d+)_\d+\.txt$")
_PARQUET = re.compile(r"(train|test|unsupervised)(?:-\d+-of-(\d+))?\.parquet")


def read_imdb(path: Annotated[str, doc("the path of a file or folder, or a hub id")]) -> Source:
    """Read IMDB from a hub id, a folder of Parquet files, the extracted `aclImdb/`, or `aclImdb_v1.tar.gz`.

    Class 0 is negative, class 1 is positive. In `aclImdb/` and the archive, document ids are file names
    (`train/pos/0_9.txt`), and clusters are the title ids of the films, from `urls_*.txt`. Parquet files may have the
    columns `id` and `movie` instead. Otherwise, ids are row numbers (`train/000017`), and there are no clusters. The
    archive is read as a stream, without extracting it.

    Raise UserError for any other path, for missing or damaged files, and for a dataset that neither the hub nor the
    local cache provides.
    """
    place = local_imdb(path)
    if place is None:
        return read_hub(
            path,
            config=None,
            train_split="train",
            validation_split=None,
            test_split="test",
            text_column="text",
            label_column="label",
            id_column=None,
            group_column=None,
            labels=LABELS,
        )
    if place.is_file():
        return _from_reviews(_read_archive(place, _REVIEW, _URLS), str(place))
    root = _find_extracted(place)
    if root is not None:
        return _from_reviews(_read_folder(root), str(place))
    return _read_parquet_folder(place)


def read_unlabelled_imdb(path: str) -> Table | None:
    """Read the 50,000 reviews without labels from the same four forms; None if the data does not include them.

    Raise UserError as `read_imdb` does, and also for Parquet files without a column `text`.
    """
    place = local_imdb(path)
    if place is None:
        return read_hub_texts(path, "unsupervised")
    root = None if place.is_file() else _find_extracted(place)
    if root is None and place.is_dir():
        files = _require_all(_shards(place)["unsupervised"], "unsupervised", place)
        table = read_parquet(files, ("text",), "text") if files else None
        if table is not None and not table.columns:
            raise UserError(
                f"{table.name} has no column 'text'. Add the column, or set data.unlabelled to another file or to null."
            )
        return table
    reviews = _read_archive(place, _UNLABELLED) if root is None else _read_reviews(root / "train" / "unsup", root)
    texts = {int(match[1]): decode_utf8(raw, file) for file, raw in reviews if (match := _UNLABELLED.search(file))}
    if not texts:
        return None
    columns = {"text": [texts[key] for key in sorted(texts)]}
    return Table(f"{path}, train/unsup", columns, "row", range(1, len(texts) + 1))


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Find the Parquet files in a folder and its subfolders. Return the sorted files of each split."""
    shards: dict[str, list[Path]] = {"train": [], "test": [], "unsupervised": []}
    for file in parquet_files(folder):
        match = _PARQUET.fullmatch(file.name)
        if match:
            shards[match[1]].append(file)
    return shards


def _require_all(files: list[Path], split: str, folder: Path) -> list[Path]:
    """Return the files of a split. Raise UserError if some of its shards are missing."""
    match = _PARQUET.fullmatch(files[0].name) if files else None
    expected = int(match[2]) if match and match[2] else min(len(files), 1)
    if len(files) != expected:
        listed = ", ".join(str(file.relative_to(folder)) for file in files[:4]) + (", …" if len(files) > 4 else "")
        raise UserError(
            f"data.path={folder}: expected {expected} file(s) for {split}, found {len(files)}: {listed}. Keep exactly "
            "the files of one complete download."
        )
    return files


def _read_parquet_folder(folder: Path) -> Source:
    shards = {split: files for split, files in _shards(folder).items() if split != "unsupervised"}
    for split, files in shards.items():
        if not files:
            raise UserError(
                f"data.path={folder} contains neither {split}.parquet (or {split}-00000-of-00001.parquet) nor the "
                "folders train/pos and train/neg of aclImdb/."
            )
        _require_all(files, split, folder)
    names = ("text", "label", "id", "movie")
    tables = {split: read_parquet(files, names, "text") for split, files in shards.items()}
    columns = set(tables["train"].columns) & set(tables["test"].columns)
    return make_source(
        tables,
        "text",
        "label",
        "id" if "id" in columns else None,
        "movie" if "movie" in columns else None,
        labels=LABELS,
    )


def parquet_files(folder: Path) -> list[Path]:
    """Return all Parquet files below a folder, sorted.

    Raise UserError if there are more than `MAX_ENTRIES` files and folders below it: the path is then probably wrong.
    """
    found, num_entries = [], 0
    for parent, folders, files in os.walk(folder):
        num_entries += len(folders) + len(files)
        if num_entries > MAX_ENTRIES:
            raise UserError(
                f"data.path={folder} contains more than {MAX_ENTRIES:,} files and folders. Set data.path to "
                "the folder of the dataset."
            )
        found += [Path(parent, name) for name in files if name.endswith(".parquet")]
    return sorted(found)


def _find_extracted(folder: Path) -> Path | None:
    for root in (folder, folder / "aclImdb"):
        if (root / "train" / "pos").is_dir():
            return root
    return None


def _read_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            urls = root / split / f"urls_{label}.txt"
            if urls.is_file():
                yield f"{split}/{urls.name}", urls.read_bytes()
            yield from _read_reviews(root / split / label, root)


def _read_reviews(folder: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path below `root` and the content of each review in a folder."""
    for file in folder.glob("*.txt"):
        yield file.relative_to(root).as_posix(), file.read_bytes()


def _read_archive(path: Path, *patterns: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file in the archive whose path matches one of the patterns."""
    try:
        # "r|" only reads forward. Members are matched by name and read into memory, so a hostile archive cannot write
        # to any path.
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for member in archive:
                if member.isfile() and any(pattern.search(member.name) for pattern in patterns):
                    if member.size > MAX_MEMBER_BYTES:
                        raise UserError(
                            f"data.path={path}: {member.name} has {member.size:,} bytes; at most "
                            f"{MAX_MEMBER_BYTES:,} are allowed for a file in the archive. Download the archive again."
                        )
                    stream = archive.extractfile(member)
                    assert stream is not None, f"{member.name} is a file without content"
                    yield member.name, stream.read()
            while unpacked.read(2**20):  # tarfile accepts some truncated archives; gzip raises an error for them
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"data.path={path} is not a complete .tar.gz archive; download it again: {error}") from error


def _from_reviews(files: Iterator[tuple[str, bytes]], name: str) -> Source:
    """Build the source from pairs (path, content) of the files in `aclImdb/`, in any order; `name` is for messages."""
    reviews: dict[str, list[tuple[str, str, int, str]]] = {"train": [], "test": []}
    titles: dict[tuple[str, str], list[str]] = {}
    for file, raw in files:
        urls, review = _URLS.search(file), _REVIEW.search(file)
        if urls:
            titles[urls[1], urls[2]] = [
                match[1] if (match := _TITLE.search(line)) else ""
                for line in decode_utf8(raw, f"{name}, {file}").splitlines()
            ]
        elif review:
            text = decode_utf8(raw, f"{name}, {file}")
            reviews[review[2]].append((review[1], review[3], int(review[4]), text))

    tables = {}
    for split, rows in reviews.items():
        found = {label for _, label, _, _ in rows}
        if found != {"pos", "neg"}:
            missing = ", ".join(f"{split}/{label}" for label in sorted({"pos", "neg"} - found))
            raise UserError(
                f"data.path={name} contains no reviews in {missing}; use the complete aclImdb folder or archive."
            )
        columns: dict[str, list[object]] = {
            "id": [row[0] for row in rows],
            "label": [1 if row[1] == "pos" else 0 for row in rows],
            "text": [row[3] for row in rows],
        }
        # The first number in a file name is the review's line in the list of URLs, counted from 0.
        movies = [_title(titles.get((split, label)), index) for _, label, index, _ in rows]
        if all(movies):
            columns["movie"] = list(movies)
        tables[split] = Table(name, dict(columns), "row", range(1, len(rows) + 1))
    has_movies = all("movie" in table.columns for table in tables.values())
    return make_source(tables, "text", "label", "id", "movie" if has_movies else None, labels=LABELS)


def _title(titles: list[str] | None, index: int) -> str:
    return titles[index] if titles is not None and index < len(titles) else ""
