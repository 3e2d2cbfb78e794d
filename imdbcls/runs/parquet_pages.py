"""Determine the decompressed size of a Parquet file without decoding its pages.

A page of a few bytes may expand to gigabytes. Checking the sizes in the file's footer does not prevent this, because
Arrow's reader allocates the size that each page header declares. This module therefore reads the page headers
(`PageHeader` of parquet.thrift, in Thrift's compact protocol), in the same order and from the same offsets as Arrow's
reader.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

MAX_FOOTER_BYTES = 2**20  # a parsed footer can take a few hundred times as much memory
MAX_HEADER_BYTES = 2**16  # limit for a page header, which consists mostly of the page's minimum and maximum
MAX_PAGES = 100_000
MAX_DEPTH = 16
MAX_INT = 2**31 - 1
# Encodings with a bounded output: decoded values need at most the larger of the page's decompressed size and 8 bytes
# per value.
PLAIN, DICTIONARY, RLE, BINARY_PACKED, LENGTHS, RLE_DICTIONARY, SPLIT = 0, 2, 3, 5, 6, 8, 9
BOUNDED = frozenset({PLAIN, DICTIONARY, RLE, BINARY_PACKED, LENGTHS, RLE_DICTIONARY, SPLIT})
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # PageType
# For each page type, three field numbers. The first is the page header's field for this type, which is a struct. The
# others are two fields of this struct: the number of values and the encoding.
_INNER = {_DATA: (5, 1, 2), _DICTIONARY: (7, 1, 2), _DATA_V2: (8, 1, 4)}
# Type codes of the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class PagesError(ValueError):
    """A file whose page headers cannot be read or are inconsistent. The message is a predicate, such as "has …"."""


@dataclass(frozen=True)
class Column:
    """A leaf column of the schema, over all row groups. `path` is its dotted path."""

    path: str
    num_values: int = 0  # including nulls
    num_bytes: int = 0  # decompressed size of all pages
    largest_page: int = 0  # decompressed size in bytes
    is_bounded: bool = True  # whether every encoding is in BOUNDED


class Page(NamedTuple):
    num_bytes: int
    num_values: int
    is_dictionary: bool
    encoding: int


def require_small_footer(path: Path) -> None:
    """Raise PagesError if a file is not Parquet, or if its footer is too large to be parsed safely."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if size < 12 or tail[4:] != b"PAR1":
        raise PagesError("is not a Parquet file")
    length = int.from_bytes(tail[:4], "little")
    if length > min(MAX_FOOTER_BYTES, size - 12):
        raise PagesError(f"has a footer of {length:,} bytes, which is too large")


def columns_of(path: Path, metadata: Any, names: Collection[str] | None = None) -> dict[str, Column]:
    """Return a `Column` for each leaf column of a Parquet file, keyed by its dotted path.

    The sizes come from the page headers. `names` restricts the result to these top-level columns. Raise PagesError if
    the pages of a column do not match the byte range and the number of values in the footer. Without this check,
    Arrow's reader could read pages whose sizes are not known here.
    """
    columns: dict[str, Column] = {}
    num_pages, size = 0, path.stat().st_size
    with path.open("rb") as file:
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            for j in range(group.num_columns):
                chunk = group.column(j)
                if names is not None and not is_of(chunk.path_in_schema, names):
                    continue
                column = columns.get(chunk.path_in_schema, Column(chunk.path_in_schema))
                num_values = 0
                for page in _pages(file, chunk, size):
                    num_pages += 1
                    if num_pages > MAX_PAGES:
                        raise PagesError(f"has more than {MAX_PAGES:,} pages")
                    num_values += 0 if page.is_dictionary else page.num_values
                    column = Column(
                        column.path,
                        column.num_values + (0 if page.is_dictionary else page.num_values),
                        column.num_bytes + page.num_bytes,
                        max(column.largest_page, page.num_bytes),
                        column.is_bounded and page.encoding in BOUNDED,
                    )
                if num_values != chunk.num_values:
                    raise PagesError(
                        f"has {num_values:,} values in {column.path[:80]!r}, but its footer declares "
                        f"{chunk.num_values:,}"
                    )
                columns[column.path] = column
    return columns


def is_of(path: str, names: Collection[str]) -> bool:
    """Return whether a leaf column belongs to one of the named top-level columns. Names may contain dots."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _pages(file: IO[bytes], chunk: Any, size: int) -> Iterator[Page]:
    """Yield the pages of a column chunk, starting at the same offset as Arrow's reader."""
    start = chunk.data_page_offset
    dictionary = chunk.dictionary_page_offset
    if chunk.has_dictionary_page and dictionary is not None and 0 < dictionary < start:
        start = dictionary
    end = start + chunk.total_compressed_size
    if not 0 <= start <= end <= size:
        raise PagesError("has pages outside the file")
    while start < end:
        file.seek(start)
        header = _Compact(file.read(min(MAX_HEADER_BYTES, end - start)))
        fields = header.struct()
        num_bytes, num_stored_bytes = _non_negative(fields, 2), _non_negative(fields, 3)
        start += header.offset + num_stored_bytes
        if start > end:
            raise PagesError("has a page that ends outside its column chunk")
        kind = _non_negative(fields, 1)
        if kind not in _INNER:
            raise PagesError(f"has a page of unknown type {kind}")
        inner_field, values_field, encoding_field = _INNER[kind]
        inner = fields.get(inner_field)
        if not isinstance(inner, dict):
            raise PagesError("has a page header without the fields of its page type")
        num_values, encoding = _non_negative(inner, values_field), _non_negative(inner, encoding_field)
        yield Page(num_bytes, num_values, kind == _DICTIONARY, encoding)


def _non_negative(fields: dict[int, Any], number: int) -> int:
    """Return a field that must be a non-negative 32-bit integer; raise PagesError if it is not."""
    value = fields.get(number)
    if not isinstance(value, int) or not 0 <= value <= MAX_INT:
        raise PagesError("has a page whose header cannot be read")
    return value


class _Compact:
    """A parser of one struct in Thrift's compact protocol. It decodes only 32-bit integers and nested structs."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.offset = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a struct, keyed by field number. Fields of types that are not decoded are None."""
        if depth > MAX_DEPTH:
            raise PagesError("has a page header that is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self.zigzag()
            fields[number] = self.value(kind, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        """Return a 32-bit integer or a struct. Skip a value of any other type and return None."""
        if kind == _I32:
            return self.zigzag()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_I16, _I64):
            self.zigzag()
        elif kind == _BYTE:
            self.skip(1)
        elif kind == _DOUBLE:
            self.skip(8)
        elif kind == _BINARY:
            self.skip(self.varint())
        elif kind not in (_TRUE, _FALSE):  # page headers contain no lists or maps
            raise PagesError("has a page whose header cannot be read")
        return None

    def byte(self) -> int:
        self.skip(1)
        return self.raw[self.offset - 1]

    def skip(self, count: int) -> None:
        self.offset += count
        if self.offset > len(self.raw):
            raise PagesError("has a page whose header cannot be read")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise PagesError("has a page whose header cannot be read")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)
