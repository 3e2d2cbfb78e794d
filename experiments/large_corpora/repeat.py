"""Write a Parquet file with any number of documents, by repeating the documents of other Parquet files."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

ROWS = 5_000  # rows per batch


def repeat(sources: Sequence[Path], output: Path, num_documents: int, num_words: int | None) -> None:
    """Write `num_documents` rows with the columns `text` and `label` of the sources.

    A number at the end of each text makes all texts different. With `num_words`, a text keeps only its first words.
    """
    batches = itertools.cycle(sources)
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    number = 0
    with parquet.ParquetWriter(output, schema) as writer:
        while number < num_documents:
            for texts, labels in batches_of(next(batches)):
                count = min(len(texts), num_documents - number)
                rows = [
                    f"{text if num_words is None else ' '.join(text.split()[:num_words])} {number + row}"
                    for row, text in enumerate(texts[:count])
                ]
                writer.write_table(pa.table([rows, labels[:count]], schema=schema))
                number += count
                if number == num_documents:
                    break


def batches_of(source: Path) -> Iterator[tuple[list[str], list[int]]]:
    for batch in parquet.ParquetFile(source).iter_batches(ROWS, columns=["text", "label"]):
        yield batch["text"].to_pylist(), batch["label"].to_pylist()
