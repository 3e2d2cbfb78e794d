"""Random settings and damaged data: each ends in a clean run or in a sentence, never in a traceback of ours.

In this process, for speed, through the functions that the command runs: Hydra composes, then resolve, validate, build
and, where the run would be short, fit.
"""

import functools
import gzip
import io
import json
import random
import tarfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import TINY

from imdbcls import build
from imdbcls.data.files import read_files
from imdbcls.data.imdb import read_imdb
from imdbcls.data.splits import make_corpus
from imdbcls.errors import UserError
from imdbcls.overrides import compose as examine
from imdbcls.overrides import resolve
from imdbcls.runs import RunFolder, config_hash
from imdbcls.signals import StopRequest
from imdbcls.tracking import NoTracker
from imdbcls.validate import validate

pytestmark = pytest.mark.slow

LONGEST_FIT = 8  # steps


@functools.cache
def keys() -> tuple[str, ...]:
    """Every key of the configuration, sections included."""

    def below(node: Any, path: str = "") -> list[str]:
        if not isinstance(node, dict):
            return []
        names = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        return [name for name, _ in names] + [deeper for name, value in names for deeper in below(value, name)]

    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        return tuple(below(resolve(compose("config", list(TINY)))))


def outcome_of(overrides: list[str], folder: Path) -> str:
    """How a command line with these overrides ends; any other error than a sentence is raised."""
    texts = [*TINY, "epochs=1", "data.train_limit=16", *overrides]
    try:
        examine(texts)
    except UserError as error:
        assert str(error).strip()
        return "sentence before Hydra"
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        try:
            config = resolve(compose("config", texts))
            validate(config)
            config_hash(config)
            hardware, corpus = build.build_hardware(config), build.build_corpus(config)
            backbone = build.build_backbone(config)
            model = build.build_model(config, backbone, len(corpus.label_names))
            validation = build.build_scored_split(config, backbone, corpus.validation)
            test = build.build_scored_split(config, backbone, corpus.test)
            run = RunFolder(folder)
            trainer = build.build_trainer(
                config, run, hardware, backbone, model, corpus, validation, test, StopRequest()
            )
            build.build_tracker(config, run, None)
            if trainer.num_steps > LONGEST_FIT:
                return "built"
            trainer.fit(NoTracker())
        except UserError as error:
            assert str(error).strip()
            return "sentence"
        return "run"


NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([10**9, 10**30, -(10**30), 2**31, 2**63, 2**64]),
    st.floats(width=32),
    st.sampled_from(["1e400", "-0.0", "0x10", "1_000", "٣", "1e-320"]),
)
WORDS = st.one_of(
    st.sampled_from(
        ["null", "true", "false", "''", "auto", "cpu", "cuda", "bf16", "head", "tiny", "sample", "lstm", "???", "../x"]
    ),
    st.sampled_from(["${seed}", "${nothing}", "${oc.env:HOME}", "${oc.env:NOTHING_SET}", "${", "a b", "a,b", "{a:1}"]),
    st.sampled_from(
        ["[1,2]", "[]", "{}", "[[[[]]]]", "{_target_: os.system}", "range(3)", "os.system", "\\", '"', "="]
    ),
    st.text(max_size=12),
)
KEYS = st.one_of(
    st.deferred(lambda: st.sampled_from(keys())),
    st.sampled_from(
        ["head", "data", "optimizer", "schedule", "tracker", "experiment", "backbone", "plugins", "nothing"]
    ),
    st.text(max_size=8),
)
OVERRIDE = st.one_of(
    st.builds(
        lambda sign, key, value: f"{sign}{key}={value}",
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        KEYS,
        st.one_of(NUMBERS, WORDS),
    ),
    st.text(max_size=20),
)


def test_five_hundred_random_command_lines(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IMDBCLS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcomes: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    number = iter(range(10_000))

    @settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(OVERRIDE, min_size=1, max_size=2))
    def fuzz(overrides: list[str]) -> None:
        try:
            outcomes[outcome_of(overrides, folder / str(next(number)))] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures.setdefault(f"{type(error).__name__} in {last.name}: {error}"[:300], overrides)

    fuzz()
    print(outcomes)
    assert not failures
    assert outcomes.total() >= 500
    assert min(outcomes["sentence before Hydra"], outcomes["run"]) >= 20, outcomes


SPLIT: dict[str, Any] = {
    "validation_fraction": 0.2,
    "test_fraction": 0.2,
    "split_seed": 0,
    "train_limit": None,
    "validation_limit": None,
    "test_limit": None,
}


def documents(count: int = 40) -> list[dict[str, object]]:
    return [{"id": f"d{i}", "text": f"The film number {i}, “quoted”.", "label": i % 2} for i in range(count)]


def as_csv() -> bytes:
    rows = [f'{row["id"]},"{row["text"]}",{row["label"]}' for row in documents()]
    return "\n".join(["id,text,label", *rows, ""]).encode()


def as_jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents()).encode()


def as_parquet() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(documents()), sink)
    return sink.getvalue()


def as_archive() -> bytes:
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for split in ("train", "test"):
            for number in range(10):
                for label, rating in (("pos", 9), ("neg", 2)):
                    raw = f"Review {number} of {split}, {label}.".encode()
                    member = tarfile.TarInfo(f"aclImdb/{split}/{label}/{number}_{rating}.txt")
                    member.size = len(raw)
                    archive.addfile(member, io.BytesIO(raw))
    return sink.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three injuries."""
    raw = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(raw)) if raw else 0
        match draw.randrange(7):
            case 0:
                raw[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                raw = raw[:place]
            case 2:
                raw[place:place] = draw.randbytes(draw.randrange(1, 30))
            case 3:
                del raw[place : place + draw.randrange(1, 60)]
            case 4:
                raw[place:place] = draw.choice([b"\0", b'"', b",", b"\n", b"\xff", b"\xef\xbb\xbf", b"}{", b"[" * 9000])
            case 5:
                raw[place:place] = raw[max(place - 50, 0) : place]
            case 6:
                raw[place:place] = draw.choice([b"NaN", b"1e999", b"9" * 5000, b"null", b"\\u0000", b"\r\n\r\n"])
    return bytes(raw)


@pytest.mark.parametrize(
    ("suffix", "make"),
    ((".csv", as_csv), (".tsv", as_csv), (".jsonl", as_jsonl), (".parquet", as_parquet), (".tar.gz", as_archive)),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sixty_damaged_files_of_each_kind(suffix: str, make: Any, tmp_path: Path) -> None:
    draw, content, outcomes = random.Random(suffix), make(), Counter[str]()
    content = content.replace(b",", b"\t") if suffix == ".tsv" else content
    for number in range(60):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(damaged(content, draw) if number else content)
        try:
            if suffix == ".tar.gz":
                source = read_imdb(str(path))
            else:
                source = read_files(str(path), None, None, "text", "label", "id", None)
            make_corpus(source, **SPLIT)
        except UserError as error:
            assert number, f"the undamaged file was refused: {error}"
            assert str(error).strip()
            outcomes["sentence"] += 1
        else:
            outcomes["read"] += 1
    print(outcomes)
    assert outcomes["sentence"] >= 10, outcomes
