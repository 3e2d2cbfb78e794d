"""Test random settings and damaged files: each gives a run or a UserError, never another exception.

For speed, the tests call the functions of the command in this process: compose with Hydra, resolve, check, build, and
fit if the run is short.
"""

import functools
import gzip
import io
import json
import random
import shutil
import tarfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.processes import TINY, digest, run, run_folder

from imdbcls import build, load_run, sections
from imdbcls.comparison.run_files import read_run
from imdbcls.config.checking import typed
from imdbcls.config.overrides import compose as examine
from imdbcls.config.quoting import readable
from imdbcls.config.resolving import resolve
from imdbcls.data.files import read_files
from imdbcls.data.imdb import read_imdb
from imdbcls.data.splits import make_corpus
from imdbcls.errors import UserError
from imdbcls.reevaluation import evaluate
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import config_hash
from imdbcls.runtime.signals import StopRequest
from imdbcls.tracking import Trackers

pytestmark = pytest.mark.slow

MAX_FIT_STEPS = 8


@functools.cache
def keys() -> tuple[str, ...]:
    """Return every key of the config, including sections."""

    def below(node: Any, path: str = "") -> list[str]:
        if not isinstance(node, dict):
            return []
        names = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        return [name for name, _ in names] + [deeper for name, value in names for deeper in below(value, name)]

    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        return tuple(below(resolve(compose("config", list(TINY)))))


def outcome_of(overrides: list[str], folder: Path) -> str:
    """Return the outcome of a command line with these overrides; raise any error except a UserError."""
    texts = [*TINY, "epochs=1", "data.train_limit=16", *overrides]
    try:
        examine(texts)
    except UserError as error:
        assert str(error).strip()
        return "error before Hydra"
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        try:
            config = typed(compose("config", [readable(text) for text in texts]))
            config_hash(config)
            run = RunFolder(folder)
            trainer = build.build_run(config, run, StopRequest()).trainer
            for construct in sections.tracker_constructors(config, run, None).values():
                construct()
            if trainer.num_steps > MAX_FIT_STEPS:
                return "built"
            trainer.fit(Trackers())
        except UserError as error:
            assert str(error).strip()
            return "error"
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
COUNTS = (
    *("batch_size", "eval_batch_size", "epochs", "max_length", "seed", "data.split_seed", "data.order_seed"),
    *("data.train_limit", "data.test_limit", "data.validation_limit", "trainer.micro_batch_size", "trainer.log_every"),
)
FRACTIONS = ("data.validation_fraction", "backbone.dropout", "backbone.attention_dropout", "trainer.max_grad_norm")
KEYS = st.one_of(
    st.deferred(lambda: st.sampled_from(keys())),
    st.sampled_from(
        ["head", "data", "optimizer", "schedule", "tracker", "experiment", "backbone", "plugins", "nothing"]
    ),
    st.text(max_size=8),
)
PLAUSIBLE = st.one_of(
    st.sampled_from([f"head={head}" for head in ("weight_avg", "lstm", "transformer", "attention", "mean", "max")]),
    st.builds(lambda lr: f"lr={lr}", st.floats(1e-8, 1e4)),
    st.builds(lambda fraction: f"warmup={fraction}", st.floats(0, 1)),
    st.builds(lambda key, count: f"{key}={count}", st.sampled_from(COUNTS), st.integers(1, 40)),
    st.builds(lambda key, value: f"{key}={value}", st.sampled_from(FRACTIONS), st.floats(0, 1)),
    st.sampled_from(
        ["optimizer=sgd", "optimizer=adam", "schedule=onecycle", "schedule=cosine", "data.truncation=tail"]
    ),
    st.sampled_from(["precision=bf16", "trainer.score_test_each_epoch=true", "head=lstm head.bidirectional=true"]),
).map(str.split)
OVERRIDE = st.one_of(
    st.builds(
        lambda sign, key, value: f"{sign}{key}={value}",
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        KEYS,
        st.one_of(NUMBERS, WORDS),
    ),
    st.text(max_size=20),
)


def test_random_overrides_never_end_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IMDBCLS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcomes: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    number, num_overrides = iter(range(10_000)), 0

    @settings(
        max_examples=150,  # Hydra takes half a second for each command line
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.lists(OVERRIDE, min_size=1, max_size=5), st.lists(OVERRIDE, min_size=2, max_size=4), PLAUSIBLE))
    def fuzz(overrides: list[str]) -> None:
        nonlocal num_overrides
        num_overrides += len(overrides)
        try:
            outcomes[outcome_of(overrides, folder / str(next(number)))] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures.setdefault(f"{type(error).__name__} in {last.name}: {error}"[:300], overrides)

    fuzz()
    print(outcomes, num_overrides)
    assert not failures
    assert num_overrides >= 300
    assert min(outcomes["error before Hydra"], outcomes["run"]) >= 20, outcomes


VALUES = ("null", "true", "-1", "-2.5", "0", "7", "1e400", "nan", "''", "a", "../x", "[1,2]", "[]", "{a: 1}")


def test_every_key_takes_or_refuses_every_kind_of_value() -> None:
    """Each command sets all keys, and all its mistakes are reported, so every key meets every value."""
    num_mistakes, single = 0, [key for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]
    for shift in range(len(VALUES)):
        texts = [f"{key}={VALUES[(number + shift) % len(VALUES)]}" for number, key in enumerate(single)]
        with pytest.raises(UserError) as mistakes:
            examine(texts)
        num_mistakes += len(str(mistakes.value).splitlines())
    assert num_mistakes > 5 * len(single)
    with pytest.raises(UserError, match="backbone=null: every run needs a choice for backbone"):
        examine(["backbone=null", "backbone.dropout=0.1"])


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
    """Return the content with one to three random changes."""
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
def test_damaged_files_never_end_in_a_traceback(suffix: str, make: Any, tmp_path: Path) -> None:
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
            outcomes["error"] += 1
        else:
            outcomes["read"] += 1
    print(outcomes)
    assert outcomes["error"] >= 10, outcomes


WEIRD = (
    None,
    True,
    -1,
    0,
    2.5,
    10**18,
    1e308,
    float("nan"),
    "",
    "../x",
    "os.system",
    "x" * 9000,
    [],
    [[]],
    {},
    {"a": {}},
)


def mutated_json(text: str, draw: random.Random) -> str:
    """Return a JSON document in which one random value is replaced, removed or moved to another key."""
    root = {"root": json.loads(text)}
    node: Any = root
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        child = node[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.8:
            node = child
            continue
        match draw.randrange(4):
            case 0 if isinstance(node, dict) and node is not root:
                node[f"{key}x"] = node.pop(key)
            case 1 if node is not root:
                del node[key]
            case _:
                node[key] = draw.choice(WEIRD)
        return json.dumps(root.get("root"))


def rewrite_manifest(folder: Path) -> None:
    """Rewrite a checkpoint's manifest to match its files, as an attacker who changed the files would."""
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    sums = {path.name: {"bytes": path.stat().st_size, "sha256": digest(path)} for path in files}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "files": sums}))


def test_damaged_run_folders_never_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, draw = tmp_path_factory.mktemp("folders"), random.Random(0)
    run(folder, *TINY, "epochs=1", "data.train_limit=16")
    original = run_folder(folder)
    monkeypatch.setenv("IMDBCLS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names = sorted(path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file())
    outcomes: Counter[str] = Counter()
    for number in range(300):
        stranger = folder / "strangers" / "study" / f"cls-{number}"
        shutil.copytree(original, stranger)
        path = stranger / names[number % len(names)]
        content = path.read_bytes()
        if path.suffix == ".json" and draw.random() < 0.7:
            path.write_text(mutated_json(content.decode(), draw))
        else:
            path.write_bytes(damaged(content, draw))
        if path.parent.parent.name == "checkpoints" and path.name != "manifest.json":
            rewrite_manifest(path.parent)
        # Evaluate only every sixth folder, because evaluation is slow.
        for reader in (read_by_api, read_to_compare, *([evaluate_validation] if number % 6 == 0 else [])):
            try:
                reader(stranger)
                outcomes["read"] += 1
            except UserError as error:
                assert str(error).strip()
                outcomes["error"] += 1
            except Exception as error:
                raise AssertionError(f"{path.relative_to(stranger)}, mutation {number}, {reader.__name__}") from error
        shutil.rmtree(stranger)
    print(outcomes)
    assert min(outcomes["read"], outcomes["error"]) >= 90, outcomes


def read_by_api(folder: Path) -> None:
    loaded = load_run(folder)
    loaded.predictions("test")
    loaded.predictions("validation")


def read_to_compare(folder: Path) -> None:
    read_run(folder, folder.parent)


def evaluate_validation(folder: Path) -> None:
    evaluate(folder, "validation")
