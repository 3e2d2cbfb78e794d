"""`read_labelled` reads the documents on which a finished run is scored."""

from pathlib import Path

import pytest

from imdbcls.data.labelled import read_labelled


@pytest.mark.parametrize(
    ("text_column", "texts"),
    [(None, ["a", "c"]), ("body", ["b", "d"]), (["body"], ["b", "d"]), (["text", "body"], ["a b", "c d"])],
)
def test_text_column_is_one_column_or_several(
    text_column: str | list[str] | None, texts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text,body,label\na,b,bad\nc,d,good\n")
    documents, _ = read_labelled(path, {"text_column": "text"}, ("bad", "good"), text_column=text_column)
    assert list(documents.texts) == texts and documents.labels.tolist() == [0, 1]
