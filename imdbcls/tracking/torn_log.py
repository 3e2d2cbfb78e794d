"""Repair the W&B log of a killed process.

If one log of a run ends inside a record, `wandb sync` skips all later logs of that run. A log consists of a file header
and of blocks in LevelDB's log format
(https://github.com/google/leveldb/blob/main/doc/log_format.md). A record is divided into fragments, which never cross
the end of a block. A fragment has a header: checksum (4 bytes), length (2 bytes, little-endian) and type (1 byte).
"""

from pathlib import Path

FILE_HEADER = b":W&B"
FILE_HEADER_LENGTH = 7
FRAGMENT_HEADER_LENGTH = 7
BLOCK_LENGTH = 32_768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # types of fragments: a whole record, or its first, middle or last part


def remove_incomplete_record(log: Path) -> None:
    """Truncate a W&B log after its last complete record. Ignore symbolic links and files of other formats."""
    if log.is_symlink():
        return
    with log.open("rb+") as file:
        content = file.read()
        if content.startswith(FILE_HEADER) and (end := end_of_records(content)) < len(content):
            file.truncate(end)


def end_of_records(content: bytes) -> int:
    """Return the number of bytes in a W&B log up to the end of its last complete record."""
    position = end = FILE_HEADER_LENGTH
    while position + FRAGMENT_HEADER_LENGTH <= len(content):
        left_in_block = BLOCK_LENGTH - position % BLOCK_LENGTH
        if left_in_block < FRAGMENT_HEADER_LENGTH:  # padding
            position += left_in_block
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        position += FRAGMENT_HEADER_LENGTH + length
        if not FULL <= kind <= LAST or position > len(content):
            break
        if kind in (FULL, LAST):
            end = position
    return end
