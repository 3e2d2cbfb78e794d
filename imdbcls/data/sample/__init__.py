"""Read `data=sample`: a small corpus of film reviews written for this project, usable without a network."""

from pathlib import Path

from imdbcls.data.columns import Request
from imdbcls.data.documents import Source
from imdbcls.data.sources import make_source
from imdbcls.data.tables import read_table

LABELS = {"0": "negative", "1": "positive"}
COLUMNS = (
    ("text_column", "text"),
    ("label_column", "label"),
    ("id_column", "id"),
    ("group_column", "movie"),
    ("part_column", "difficulty"),
)


def read_sample() -> Source:
    """Read the reviews in this package's folder. The clusters are the invented films; the parts are difficulties."""
    folder = Path(__file__).parent
    tables = {split: read_table(folder / f"{split}.jsonl", "data", Request(COLUMNS)) for split in ("train", "test")}
    return make_source(tables, "text", "label", "id", "movie", "difficulty", labels=LABELS)
