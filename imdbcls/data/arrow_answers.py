"""Write the answers of `imdbcls.predict` as Parquet.

A Parquet file is complete only after its last row, so it cannot be continued after an interruption. The answers are
therefore first appended to an Arrow stream, and converted to Parquet at the end. Neither step keeps all rows in memory.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from imdbcls.data.answers import PROBABILITY, Answer, Write
from imdbcls.printable import json_line
from imdbcls.runs.format_version import ANSWERS, FORMAT_VERSION

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 2**17  # minimum number of rows in a row group, except in the last


def arrow_schema(label_names: Sequence[str], copied: Sequence[str], types: Mapping[str, object]) -> "pyarrow.Schema":
    """Return the Arrow schema of the answers. A copied column has its type in `types`; the default is string."""
    import pyarrow

    fields = [("number", pyarrow.int64())]
    fields += [(name, types.get(name, pyarrow.string())) for name in copied]
    fields += [("label", pyarrow.string())]
    fields += [(f"{PROBABILITY}{name}", pyarrow.float64()) for name in label_names]
    metadata = {FORMAT_VERSION: str(ANSWERS), "label_names": json.dumps(list(label_names))}
    return pyarrow.schema(fields, metadata=metadata)


def write_arrow(file: IO[bytes], schema: "pyarrow.Schema", *, header: bool) -> Write:
    """Write the schema, unless `header` is false, and return a function that appends answers as one record batch."""
    import pyarrow

    if header:
        file.write(schema.serialize())
    num_classes = len(json.loads(schema.metadata[b"label_names"]))
    copied = schema.names[1 : -num_classes - 1]

    def values_of(answers: Sequence[Answer], name: str) -> list[object]:
        values = [answer.item.copied.get(name) for answer in answers]
        if not pyarrow.types.is_string(schema.field(name).type):
            return values
        return [value if value is None or isinstance(value, str) else json_line(value) for value in values]

    def write(answers: Sequence[Answer]) -> None:
        unknown = [None] * num_classes
        by_class = zip(*(answer.probabilities or unknown for answer in answers), strict=True)
        columns = [
            [answer.item.number for answer in answers],
            *(values_of(answers, name) for name in copied),
            [answer.label for answer in answers],
            *by_class,
        ]
        arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        file.write(pyarrow.record_batch(arrays, schema=schema).serialize())

    return write


def convert_to_parquet(stream: Path, parquet: Path) -> None:
    """Write the answers in an Arrow stream to a Parquet file."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    with (
        pyarrow.OSFile(str(stream)) as file,
        pyarrow.ipc.open_stream(file) as reader,
        ParquetWriter(parquet, reader.schema) as writer,
    ):
        batches: list[pyarrow.RecordBatch] = []
        for batch in reader:
            batches.append(batch)
            if sum(each.num_rows for each in batches) >= ROW_GROUP:
                writer.write_table(pyarrow.Table.from_batches(batches))
                batches = []
        if batches:
            writer.write_table(pyarrow.Table.from_batches(batches))
