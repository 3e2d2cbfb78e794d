"""Test CSV and TSV files from programs and people: quoting and delimiters are detected, and rows are never merged."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imdbcls.data.columns import Request, request_of
from imdbcls.data.documents import Source
from imdbcls.data.files import read_files
from imdbcls.data.table import Table
from imdbcls.data.tables import read_table, require_columns
from imdbcls.errors import UserError

EXAMPLES = settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def table_of(path: Path, content: str, *columns: str, delimiter: str = "auto", quoting: str = "auto") -> Table:
    path.write_bytes(content.encode())
    request = Request(tuple((f"column_{place}", name) for place, name in enumerate(columns)), delimiter, quoting)
    return read_table(path, "data.train", request)


def texts(path: Path, content: str, *, delimiter: str = "auto", quoting: str = "auto") -> list[object]:
    return list(table_of(path, content, "text", delimiter=delimiter, quoting=quoting).columns["text"])


def source_of(path: Path, content: str, **settings: str) -> Source:
    path.write_bytes(content.encode())
    return read_files(str(path), None, None, "text", "label", None, None, **settings)


# Quotation marks of TSV files


@pytest.mark.parametrize(
    "lines",
    [
        # A field begins with a quotation mark that is closed before the end of the field, as in MRPC.
        ['pos\t"Rarely seen," she said', "neg\tnot at all"],
        # The quotation mark is never closed: with quoting, everything after it would be one field.
        ['pos\t"Rarely seen', "neg\tnot at all", "pos\tyes"],
        # The quotation mark is closed at the end of a later line: with quoting, three rows would silently be one.
        ['pos\t"Rarely seen', "neg\tnot at all", 'pos\tand then "'],
        # Only some texts are in quotation marks: a CSV writer would quote all of them or only those that need it.
        ['pos\t"Rarely seen"', "neg\tnot at all"],
        # Quotation marks stand for inches, or are doubled.
        ['pos\t""Rarely"" seen', 'neg\t12" records and 7" ones'],
    ],
)
def test_an_unquoted_tsv_keeps_its_quotation_marks(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    source = source_of(path, "label\ttext\n" + "".join(f"{line}\n" for line in lines))
    assert list(source.train.texts) == [line.split("\t")[1] for line in lines]
    assert source.notes[0] == f"Read {len(lines)} rows from {path}."
    starts = any('\t"' in line for line in lines)
    assert any("(data.quoting=none)" in note for note in source.notes) == starts


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_quoted_file_loses_only_its_enclosing_quotes(quoting: int, delimiter: str, tmp_path: Path) -> None:
    rows = [
        ("plain", 1),
        ('He said "no".', 0),
        ('"All of it in quotation marks"', 1),
        (f"with {delimiter} the delimiter", 0),
        ("two\nlines", 1),
        (f"a table\n1{delimiter}2\n3{delimiter}4\n", 0),
    ]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])  # type: ignore[arg-type]
    path = tmp_path / ("d.tsv" if delimiter == "\t" else "d.csv")
    assert list(source_of(path, file.getvalue()).train.texts) == [text for text, _ in rows]


@EXAMPLES
@given(
    rows=st.lists(
        st.tuples(st.text(alphabet='ab" ,;\n', min_size=1, max_size=12).filter(str.strip), st.integers(0, 1)),
        min_size=4,
        max_size=8,
    ),
    suffix=st.sampled_from([".csv", ".tsv"]),
    everything=st.booleans(),
)
def test_quoted_texts_survive_a_round_trip(
    rows: list[tuple[str, int]], suffix: str, everything: bool, tmp_path: Path
) -> None:
    """Reading gives either the original texts or an error for an ambiguous line, but never other texts."""
    file = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", quoting=quoting)
    writer.writerows([("text", "label"), *rows])
    try:
        found = texts(tmp_path / f"d{suffix}", file.getvalue())
    except UserError as error:
        assert "look like separate rows" in str(error)
    else:
        assert found == [text for text, _ in rows]


@EXAMPLES
@given(rows=st.lists(st.text(alphabet='ab" ,;', min_size=1, max_size=10).filter(str.strip), min_size=2, max_size=8))
def test_a_tsv_never_loses_rows(rows: list[str], tmp_path: Path) -> None:
    content = "label\ttext\n" + "".join(f"{place % 2}\t{text}\n" for place, text in enumerate(rows))
    assert len(texts(tmp_path / "d.tsv", content)) == len(rows)


def test_quoting_can_be_set(tmp_path: Path) -> None:
    content = 'text\tlabel\n"in quotes"\tx\nnot in quotes\ty\n'
    assert texts(tmp_path / "d.tsv", content) == ['"in quotes"', "not in quotes"]
    assert texts(tmp_path / "d.tsv", content, quoting="standard") == ["in quotes", "not in quotes"]
    content = 'text,label\n"in quotes",x\n"not closed,y\n'
    with pytest.raises(UserError, match=r"d\.csv, line 3: this row .* data.quoting=none reads quotation marks as ord"):
        source_of(tmp_path / "d.csv", content)
    assert texts(tmp_path / "d.csv", content, quoting="none") == ['"in quotes"', '"not closed']


# Rows that would be merged


def rows_with(broken: list[str]) -> str:
    rows = [f"{'pos' if row % 2 else 'neg'},film number {row}" for row in range(20)]
    return "\n".join(["label,text", *rows[:10], *broken, *rows[10:]]) + "\n"


@pytest.mark.parametrize(
    "broken",
    [
        ['pos,"So great', 'neg,the end"'],
        ['pos,"So great', "neg,dull", "pos,fine", 'neg,the end"'],
        ['pos,"So great, yes, great', "neg,dull", 'neg,the end"'],  # the text of the first row contains commas
    ],
)
def test_rows_after_an_unclosed_quote_are_not_merged(broken: list[str], tmp_path: Path) -> None:
    content = rows_with(broken)
    last = 11 + len(broken)
    with pytest.raises(UserError, match=rf"d\.csv, line 12: a quotation mark opens a .* on line {last}, .*none"):
        source_of(tmp_path / "d.csv", content)
    merged = texts(tmp_path / "d.csv", content, quoting="standard")  # the user says that the quoting is correct
    assert len(merged) == 21
    if broken[0].count(",") == 1:
        assert len(texts(tmp_path / "d.csv", content, quoting="none")) == 20 + len(broken)


def test_merged_rows_are_recognised_by_the_other_columns(tmp_path: Path) -> None:
    """Another column shows what a row looks like. Without such a column, more lines are needed as evidence."""
    rows = [f"film number {row % 6},{'pos' if row % 2 else 'neg'}\n" for row in range(12)]
    content = "".join(["text,label\n", *rows, '"So good,pos\nbad,neg\nthe end",pos\n', *rows])
    with pytest.raises(UserError, match=r"line 14: a quotation mark opens a field that ends on line 16"):
        source_of(tmp_path / "d.csv", content)
    ids = "".join(f"x{row}y,film {row}\n" for row in range(10))
    spans = {2: 'a7,"So good\nb,c\nd,e"\n', 3: 'a7,"So good\nb,c\nd,e\nf,g"\n'}
    assert len(texts(tmp_path / "d.csv", f"id,text\n{ids}{spans[2]}")) == 11
    with pytest.raises(UserError, match=r"line 12: a quotation mark opens a field that ends on line 15"):
        texts(tmp_path / "d.csv", f"id,text\n{ids}{spans[3]}")


@pytest.mark.parametrize(
    "text",
    [
        "Dear Sir,\nhello, you\n\nyours",
        "Dear Sir, hello\nbye",
        "Well, yes, I said\nbye",
        "roses, red\nviolets, blue\nsugar, sweet",  # each line has a comma, but none has a label
        'He said, "no"\nand left, twice',
    ],
)
@pytest.mark.parametrize("label_first", [True, False])
def test_a_multiline_text_is_one_text(text: str, label_first: bool, tmp_path: Path) -> None:
    rows = [(f"film number {row}", "pos" if row % 2 else "neg") for row in range(20)]
    rows.insert(10, (text, "pos"))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerows([row[::-1] if label_first else row for row in [("text", "label"), *rows]])
    assert texts(tmp_path / "d.csv", file.getvalue()) == [row[0] for row in rows]


# Delimiters and spaces


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", 'text;label\nGood, fun;x\n"Bad; no";y\n'),
        ("d.csv", '\ufeffid;text;label\r\n1;"Good, fun";x\r\n2;"Bad; no";y\r\n'),  # Excel
        ("d.csv", 'sep=;\r\ntext;label\r\nGood, fun;x\r\n"Bad; no";y\r\n'),
        ("d.csv", "text\tlabel\nGood, fun\tx\nBad; no\ty\n"),
        ("d.tsv", 'text,label\n"Good, fun",x\nBad; no,y\n'),
        ("d.csv", 'label , text\nx, "Good, fun"\ny, "Bad; no"\n'),
        ("d.csv", 'label, text\nx, "Good, fun"\ny, Bad; no\n'),
        ("d.csv", 'text ,label\n"Good, fun",x\nBad; no,y\n'),
    ],
)
def test_delimiters_and_spaces_are_detected(name: str, content: str, tmp_path: Path) -> None:
    source = source_of(tmp_path / name, content)
    assert list(source.train.texts) == ["Good, fun", "Bad; no"] and source.label_names == ("x", "y")


def test_a_delimiter_can_be_set_and_is_reported_if_detected(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    assert texts(path, "text|label\na,b|x\n", delimiter="pipe") == ["a,b"]
    source = source_of(path, "text;label\na;x\nb;y\n")
    assert source.notes[1] == f"{path}: fields are separated by ';' (data.delimiter=semicolon)."
    with pytest.raises(UserError, match=r"line 3: expected 2 fields as in the header, found 3\. The delimiter is ';'"):
        source_of(path, "text;label\na;x\nb;c;y\n")
    # The comma stays the delimiter if it splits the header into the requested columns.
    assert texts(path, "text,a;b,label\nx,1;2,y\n") == ["x"]


def test_leading_spaces_of_texts_stay(tmp_path: Path) -> None:
    """A space after the delimiter is part of the text unless quotation marks follow it."""
    assert texts(tmp_path / "d.csv", "label,text\nx, a\ny,b\n") == [" a", "b"]
    assert texts(tmp_path / "d.csv", 'label,text\nx, "a" and\ny,b\n') == [' "a" and', "b"]


def test_spaces_count_in_rows_of_several_lines(tmp_path: Path) -> None:
    rows = '"a ""x""\nb", "pos"\n"c, d", "neg"\n"e", "pos"\n'
    source = source_of(tmp_path / "d.csv", f"text,label\n{rows}")
    assert source.label_names == ("neg", "pos") and list(source.train.texts) == ['a "x"\nb', "c, d", "e"]


# Columns


@pytest.mark.parametrize(
    "content",
    [
        "v1,v2,,,\nham,one,,,\nspam,two,,,\n",
        "v1,n,v2,n\nham,1,one,2\nspam,1,two,2\n",
        "\ufeff v1 , v2\nham,one\nspam,two\n",
        "v2,v1,Unnamed: 2,\none,ham,,\ntwo,spam,,\n",
    ],
)
def test_only_the_requested_columns_must_be_unique(content: str, tmp_path: Path) -> None:
    found = table_of(tmp_path / "d.csv", content, "v1", "v2")
    assert {name: list(values) for name, values in found.columns.items()} == {
        "v1": ["ham", "spam"],
        "v2": ["one", "two"],
    }


def test_duplicate_parquet_columns_are_ignored_unless_requested(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "d.parquet"
    parquet.write_table(pa.table([["a"], [1], [2]], names=["text", "x", "x"]), path)
    assert list(read_table(path, "data.train", Request((("text_column", "text"),))).columns["text"]) == ["a"]
    with pytest.raises(UserError, match=r"column 'x' \(data.text_column\) occurs 2 times in 'text', 'x', 'x'"):
        read_table(path, "data.train", Request((("text_column", "x"),)))


TICKETS = [
    (f"T-{row}", *[("The printer is broken again", "hardware"), ("I cannot log in to the portal", "account")][row % 2])
    for row in range(8)
]


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl", "parquet"])
def test_all_wrong_columns_are_reported_together_with_a_suggestion(extension: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / f"tickets.{extension}"
    rows = [dict(zip(("ticket_id", "what_happened", "kind"), row, strict=True)) for row in TICKETS]
    if extension == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif extension == "jsonl":
        path.write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    else:
        separator = "," if extension == "csv" else "\t"
        path.write_text("\n".join(separator.join(row) for row in [tuple(rows[0]), *TICKETS]) + "\n")
    with pytest.raises(UserError) as caught:
        require_columns(path, request_of("text", "label", None, None))
    hint = " (the first line names the columns)" if extension in ("csv", "tsv") else ""
    assert str(caught.value) == (
        f"{path} has no columns 'text' (data.text_column) and 'label' (data.label_column); it has 'ticket_id', "
        f"'what_happened', 'kind'{hint}. Use data.text_column=what_happened data.label_column=kind."
    )


def test_columns_with_similar_names_are_suggested(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,Kunde,stadt\nwords,a,b\n")
    for columns, advice in (
        ((("keep", "kunde"),), "Use --keep Kunde."),
        ((("keep", "kunde"), ("keep", "Stdt")), "Use 'Kunde' instead of 'kunde', and 'stadt' instead of 'Stdt'."),
        ((("text_column", "texxt"), ("keep", "kunde")), "Use --text-column text --keep Kunde."),
        ((("keep", "mail"),), "(the first line names the columns)."),
    ):
        with pytest.raises(UserError) as caught:
            require_columns(path, Request(columns, spelling="option"))
        assert str(caught.value).endswith(advice)


def test_usual_names_are_suggested_first_and_quoted_for_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("Review,long,my id\nshort," + "x" * 90 + ",7\n")
    with pytest.raises(UserError, match=r"it has 'Review', 'long', 'my id' .*\. Use data.text_column=Review\."):
        require_columns(path, request_of("text", "long", None, None))
    path.write_text("Der Text,my id\nwords,7\nmore,8\n")
    with pytest.raises(UserError, match=r"""Use 'data.text_column="Der Text"'"""):
        require_columns(path, Request((("text_column", "text"),)))
    with pytest.raises(UserError, match="Use --text-column 'Der Text'"):
        require_columns(path, Request((("text_column", "text"),), spelling="option"))
