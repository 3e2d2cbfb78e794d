"""Small files that would expand too much are refused before they are decompressed, whatever their footer claims."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.limits import HANG_SECONDS

from imdbcls.comparison.run_files import BadRunError, read_history
from imdbcls.data.columns import Request
from imdbcls.data.tables import read_table
from imdbcls.errors import UserError
from imdbcls.runs.parquet_pages import PagesError, columns_of, require_small_footer
from imdbcls.runs.read_predictions import BadPredictionsError, read_predictions

MAX_MEGABYTES = 500  # peak memory of the process that reads all files in sequence
ROWS = 300


def columns(num_rows: int = ROWS, **changed: Any) -> dict[str, Any]:
    return {
        "id": pa.array([str(row) for row in range(num_rows)]),
        "label": pa.array(np.zeros(num_rows, dtype=np.int64)),
        "prediction": pa.array(np.zeros(num_rows, dtype=np.int64)),
        "probabilities": pa.array([[0.5, 0.5]] * num_rows),
        "tokens": pa.array(np.ones(num_rows, dtype=np.int64)),
        **changed,
    }


def write(path: Path, table: dict[str, Any] | pa.Table, **settings: Any) -> Path:
    table = table if isinstance(table, pa.Table) else pa.table(table)
    pq.write_table(table, path, **{"compression": "zstd", **settings})
    return path


def equal_lists(num_rows: int, num_values: int) -> pa.Array:
    values = pa.array(np.full(num_rows * num_values, 1 / num_values))
    return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * num_values), values)


def make_bombs(folder: Path) -> dict[str, str]:
    """Write hostile files into `folder`. Map the name of each file to a part of the expected error ("": no error)."""
    one_page = {"dictionary_pagesize_limit": 2**31 - 1, "data_page_size": 2**31 - 1}
    ids = [str(row) for row in range(ROWS)]
    nested = pa.array([[[[0.5]]]] * ROWS)
    repeated = pa.DictionaryArray.from_arrays(np.zeros(ROWS, dtype=np.int32), pa.array(["x" * (90 << 20)]))
    plain, long = pa.table(columns()), "x" * (200 << 20)
    damaged = "are damaged or lack a column of the expected type"
    many = {f"column {number}": pa.array([0]) for number in range(12_000)}
    tables: dict[str, tuple[Any, dict[str, Any], str]] = {
        "one id": (columns(id=pa.array([long, *ids[1:]])), one_page, "expand to 209,"),
        "one long value": (columns(label=pa.array([long, *ids[1:]])), one_page, damaged),
        "one cluster": (columns(cluster=repeated), one_page, "expand to 94,"),
        "wide lists": (columns(probabilities=equal_lists(ROWS, 100_000)), {}, "too many values"),
        "too many classes": (columns(probabilities=equal_lists(ROWS, 1_001)), {}, "one number per class in every row"),
        "shared beginnings": (
            columns(id=pa.array([f"{'x' * (1 << 20)}{name}" for name in ids[:30]] + ids[30:])),
            {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}},
            "an encoding in column 'id'",
        ),
        "nested lists": (columns(probabilities=nested), {}, damaged),
        "a list for an id": (columns(id=nested), {}, damaged),
        "many columns": (many, {}, damaged),
        "many row groups": (plain, {"row_group_size": 1, "write_statistics": True}, ""),
        "a schema of megabytes": (plain.replace_schema_metadata({"a": "x" * (40 << 20)}), {}, damaged),
    }  # fmt: skip
    for name, (table, settings, _) in tables.items():
        write(folder / f"{name}.parquet", table, **settings)
    return {f"{name}.parquet": sentence for name, (_, _, sentence) in tables.items()}


READ_ALL = """
import json, re, sys
import numpy as np
from pathlib import Path
from imdbcls.runs.read_predictions import BadPredictionsError, read_predictions
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    try:
        read_predictions(path, np.float64)
        found[path.name] = ""
    except BadPredictionsError as error:
        found[path.name] = str(error)
(kilobytes,) = re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())  # of this process only
print(json.dumps([found, int(kilobytes) // 1024]))
"""


def test_bombs_are_refused_within_bounded_memory(tmp_path: Path) -> None:
    expected = make_bombs(tmp_path)
    assert all(
        (tmp_path / f"{name}.parquet").stat().st_size < 100_000 for name in ("one id", "one cluster", "wide lists")
    )
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    found, megabytes = json.loads(done.stdout)
    assert found.keys() == expected.keys()
    for name, sentence in expected.items():
        assert (sentence in found[name]) if sentence else found[name] == "", (name, found[name])
    assert megabytes < MAX_MEGABYTES


def test_predictions_are_bit_identical_for_every_parquet_writer(tmp_path: Path) -> None:
    """Cover several batches and row groups, with and without dictionaries, and all types that columns may have."""
    generator = np.random.default_rng(0)
    num_rows = 70_000
    first = generator.random(num_rows)
    values_NC = np.stack([first, 1 - first], axis=1)
    labels = generator.integers(0, 2, num_rows)
    ids = [f"t{row}" for row in generator.permutation(num_rows)]
    clusters = [f"film {row % 700}" for row in range(num_rows)]
    lists = pa.ListArray.from_arrays(np.arange(num_rows + 1, dtype=np.int32) * 2, pa.array(values_NC.reshape(-1)))
    made = columns(1, id=pa.array(ids), label=pa.array(labels), prediction=pa.array(values_NC.argmax(axis=1)))
    made |= {"probabilities": lists, "tokens": pa.array(np.arange(num_rows)), "cluster": pa.array(clusters)}
    variants: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({}, {}),
        ({}, {"row_group_size": 9_000, "data_page_size": 10_000, "use_dictionary": False, "data_page_version": "2.0"}),
        (
            {"id": pa.array(ids).dictionary_encode(), "cluster": pa.array(clusters, pa.large_string())},
            {"version": "1.0"},
        ),
        ({"probabilities": lists.cast(pa.list_(pa.float64(), 2)), "label": pa.array(labels, pa.int8())}, {}),
    )  # fmt: skip
    for changed, settings in variants:
        found = read_predictions(write(tmp_path / "a.parquet", made | changed, **settings), np.float64)
        assert found.ids.tolist() == ids and np.array_equal(found.tokens, range(num_rows))
        assert found.probabilities.tobytes() == values_NC.tobytes()
        assert np.array_equal(found.labels, labels)
        assert found.clusters is not None and found.clusters.tolist() == clusters
    numbers = {"id": pa.array(range(num_rows)), "cluster": pa.array([None, *clusters[1:]])}
    found = read_predictions(write(tmp_path / "a.parquet", made | numbers), np.float32)
    assert found.ids[-1] == str(num_rows - 1) and found.clusters is None and found.probabilities.dtype == np.float32


def test_too_long_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.runs.read_predictions.MAX_ID_TOTAL", 10_000)
    path = write(tmp_path / "a.parquet", columns(id=pa.array([f"{row:0100}" for row in range(ROWS)])))
    with pytest.raises(BadPredictionsError, match="300 rows, and the longest id has 100 characters"):
        read_predictions(path, np.float32)


def test_too_long_cluster_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.runs.read_predictions.MAX_NAME_TOTAL", 10_000)
    for num_clusters, is_refused in ((99, False), (101, True)):
        names = pa.array([f"{row % num_clusters:0100}" for row in range(ROWS)])
        path = write(tmp_path / "a.parquet", columns(cluster=names), row_group_size=50)
        if is_refused:
            with pytest.raises(BadPredictionsError, match="cluster names of more than 10,000 characters"):
                read_predictions(path)
        else:
            clusters = read_predictions(path).clusters
            assert clusters is not None and len({id(name) for name in clusters}) == num_clusters


def claimed(path: Path, **claims: Any) -> Any:
    """Return a file's metadata with false values in each column chunk."""
    true = pq.ParquetFile(path).metadata
    names = ("path_in_schema", "data_page_offset", "dictionary_page_offset", "has_dictionary_page")
    kept = (*names, "total_compressed_size", "total_uncompressed_size", "num_values")
    group = true.row_group(0)
    chunks = [
        SimpleNamespace(**{name: getattr(group.column(j), name) for name in kept} | claims)
        for j in range(group.num_columns)
    ]
    row_group = SimpleNamespace(num_columns=len(chunks), column=lambda j: chunks[j])
    return SimpleNamespace(num_row_groups=1, row_group=lambda i: row_group)


def test_forged_footer_does_not_change_the_checked_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array(["x" * 5_000_000])}, use_dictionary=False)
    true = columns_of(path, pq.ParquetFile(path).metadata)
    assert true["text"].num_bytes > 5_000_000 and path.stat().st_size < 5_000
    assert columns_of(path, claimed(path, total_uncompressed_size=1)) == true
    for claims in (
        {"num_values": 0},
        {"num_values": 2},
        {"total_compressed_size": 2**60},
        {"total_compressed_size": 10},
        {"total_compressed_size": -1},
        {"data_page_offset": 2**62},
        {"data_page_offset": -5},
        {"data_page_offset": path.stat().st_size - 9},
    ):
        with pytest.raises(PagesError):
            columns_of(path, claimed(path, **claims))


def test_any_damaged_byte_raises_only_bad_predictions(tmp_path: Path) -> None:
    """Change every third byte of a file in turn. The file is either read or refused; no other exception is raised."""
    good = write(tmp_path / "good.parquet", columns(4), compression="none").read_bytes()
    path, refused = tmp_path / "a.parquet", 0
    for offset in range(0, len(good), 3):
        for byte in (0x00, 0xFF):
            path.write_bytes(good[:offset] + bytes([byte]) + good[offset + 1 :])
            try:
                read_predictions(path, np.float32)
            except BadPredictionsError:
                refused += 1
    assert refused > 100
    for raw, sentence in ((b"", "is not"), (b"PAR1" * 4, "footer of"), (good[:-4] + b"PARE", "is not")):
        path.write_bytes(raw)
        with pytest.raises(PagesError, match=sentence):
            require_small_footer(path)


def test_documents_that_expand_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array(["x" * 3_000_000, "y"]), "label": pa.array([0, 1])})
    request = Request((("text_column", "text"), ("label_column", "label")))
    assert len(read_table(path, "data.train", request).numbers) == 2
    monkeypatch.setattr("imdbcls.data.parquet.MAX_PAGE_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"a\.parquet: column 'text' has a page that expands to 3,000,0\d\d bytes"):
        read_table(path, "data.train", request)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" + "[]," * 30_000 + "[]]\n", "a line of more than 65,536 bytes"),
        ('{"epoch":0}\n' * 30, "more than 20 points"),
    ],
)
def test_too_large_metrics_log_is_refused(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imdbcls.comparison.run_files.MAX_POINTS", 20)
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(BadRunError, match=sentence):
        read_history(tmp_path / "metrics.jsonl")


def test_metrics_log_keeps_only_the_columns_of_curves(tmp_path: Path) -> None:
    line = json.dumps(
        {"epoch": 1.5, "step": 3, "val/loss": 0.5, "val/accuracy": "x", **dict.fromkeys("abcdef", "y" * 1000)}
    )
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n[1]\n{line[:40]}")
    assert read_history(tmp_path / "metrics.jsonl") == [{"epoch": 1.5, "step": 3, "val/loss": 0.5}]
