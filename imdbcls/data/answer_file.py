"""Write the answers of `imdbcls.predict` to stdout, or to a file that an interrupted command continues.

An unfinished file is stored in the folder `<output>.part`. After each chunk of rows, the command appends the answers to
`answers` in this folder, and then replaces `state.json` atomically. `state.json` contains the number of answered rows,
the size of `answers`, a hash of the answered rows, the options of the command, and the hardware and software.

After an interruption, the same command truncates `answers` to the recorded size and continues with the next row. The
chunks are the same as without the interruption, so the output has the same bits on the same hardware and software. One
case is different: if a row cannot be read, the rows before this row form a smaller chunk, and all later chunks change.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from imdbcls.data.answers import TEXT_FORMATS, Answer, Item, Write
from imdbcls.data.arrow_answers import arrow_schema, convert_to_parquet, write_arrow
from imdbcls.errors import UserError
from imdbcls.runs.format_version import ANSWERS, FORMAT_VERSION
from imdbcls.runs.untrusted import read_json
from imdbcls.runtime.atomic import replacing, sync, sync_file, write_atomically
from imdbcls.runtime.locks import file_lock

if TYPE_CHECKING:
    from imdbcls.data.token_counts import TokenCounts

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Counts of the answered rows. `counts` has the token counts of their texts; None if no row has a text."""

    num_rows: int = 0
    num_without_text: int = 0
    first_without_text: int | None = None  # number of the first row without a text
    last_number: int = 0  # number of the last row
    counts: "TokenCounts | None" = None

    def add(self, answers: Sequence[Answer], counts: "TokenCounts | None") -> None:
        without_text = [answer.item.number for answer in answers if answer.label is None]
        self.num_rows += len(answers)
        self.last_number = answers[-1].item.number
        self.num_without_text += len(without_text)
        if self.first_without_text is None and without_text:
            self.first_without_text = without_text[0]
        if counts is not None:
            self.counts = counts if self.counts is None else self.counts + counts


@dataclass(frozen=True)
class Columns:
    """The classes, the names of the copied columns, and the Arrow types of these columns, where known."""

    label_names: tuple[str, ...]
    copied: tuple[str, ...]
    types: Mapping[str, object]


class AnswerStream:
    """Write answers to stdout, a device or a pipe. An interrupted command starts again from the first row."""

    def __init__(self, file: TextIO, format_: str, columns: Columns) -> None:
        self.tally = Tally()
        self._file = file
        self._write = TEXT_FORMATS[format_](file, columns.label_names, columns.copied)

    def remaining(self, items: Iterator[Item]) -> Iterator[Item]:
        return items

    def write(self, answers: Sequence[Answer], counts: "TokenCounts | None") -> None:
        self._write(answers)
        self._file.flush()
        self.tally.add(answers, counts)


class AnswerFile:
    """Answers in a file that an interrupted command continues; see the module docstring.

    `command` maps each option that determines the answers to its value. `environment` returns the hardware and software
    that can change the last bits of the answers; it is called after the first answers.
    """

    def __init__(
        self,
        output: Path,
        format_: str,
        columns: Columns,
        command: Mapping[str, object],
        environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self.tally = Tally()
        self._output = Path(os.path.realpath(output))  # if `output` is a link, replace the linked file
        self.folder = self._output.with_name(self._output.name + ".part")
        self._path = self.folder / "answers"
        self._state = self.folder / "state.json"
        self._format, self._columns = format_, columns
        self._command = {**command, "format": format_, "columns": [*columns.label_names, *columns.copied]}
        self._find_environment = environment
        self._earlier_environment: Mapping[str, str] | None = None
        self._rows = hashlib.sha256()
        self._expected_rows: str | None = None
        self._file: IO[Any]
        self._write: Write

    @contextlib.contextmanager
    def opened(self) -> Iterator["AnswerFile"]:
        """Lock the folder, and restore the state of an interrupted command. Complete the output after the block.

        If the block raises an error, keep the folder, so that the same command can continue. Raise UserError if the
        folder belongs to a different command, if it is in use, or if it cannot be written.
        """
        from filelock import Timeout

        of_block: OSError | None = None  # raised by the block, not by writing the output
        try:
            self.folder.mkdir(exist_ok=True)
            with file_lock(self.folder / ".lock").acquire(blocking=False):
                size = self._restore()
                with self._opened_at(size), self._reporting():
                    try:
                        yield self
                    except OSError as error:
                        of_block = error
                        raise
                self._complete()
            # Remove the folder after the lock is released: NFS and Windows cannot remove a locked file.
            shutil.rmtree(self.folder, ignore_errors=True)
        except Timeout as error:
            raise UserError(f"{self.folder} is in use by another process. Wait for that process or stop it.") from error
        except OSError as error:
            if error is of_block:
                raise
            raise self._not_written(error) from error

    def remaining(self, items: Iterator[Item]) -> Iterator[Item]:
        """Skip the rows that already have answers. Raise UserError if the input now has other rows in their place."""
        for item in itertools.islice(items, self.tally.num_rows):
            self._hash(item)
        if self._expected_rows is not None and self._rows.hexdigest() != self._expected_rows:
            raise UserError(
                f"The first {self.tally.num_rows:,} rows of the input differ from the rows whose answers are in "
                f"{self.folder}. Delete this folder to start again, or choose another --output."
            )
        return items

    def write(self, answers: Sequence[Answer], counts: "TokenCounts | None") -> None:
        """Append the answers for the next rows, and save the state. Raise UserError if they cannot be written."""
        try:
            self._append(answers, counts)
        except OSError as error:
            raise self._not_written(error) from error

    def _append(self, answers: Sequence[Answer], counts: "TokenCounts | None") -> None:
        self._write(answers)
        sync_file(self._file)
        self.tally.add(answers, counts)
        for answer in answers:
            self._hash(answer.item)
        state = {
            FORMAT_VERSION: ANSWERS,
            "command": self._command,
            "environment": self._environment,
            "num_bytes": os.fstat(self._file.fileno()).st_size,
            "rows_sha256": self._rows.hexdigest(),
            "tally": asdict(self.tally),
        }
        write_atomically(self._state, json.dumps(state, indent=1))

    @cached_property
    def _environment(self) -> Mapping[str, str]:
        """The hardware and software. Log a warning if the earlier answers came from a different environment."""
        from imdbcls.runtime.environment import differences

        now = dict(self._find_environment())
        if self._earlier_environment is not None and (changes := differences(self._earlier_environment, now)):
            logger.warning(
                f"{'; '.join(changes)}: the last digits of the answers may differ from those of an uninterrupted "
                "command."
            )
        return now

    def _not_written(self, error: OSError) -> UserError:
        return UserError(
            f"--output={self._output} cannot be written ({error.strerror or error}). Correct the cause, or choose "
            "another --output."
        )

    def _hash(self, item: Item) -> None:
        pair = () if item.pair is None else (item.pair,)
        raw = repr((item.number, item.text, item.copied, *pair)).encode()
        self._rows.update(b"%d " % len(raw) + raw)

    def _restore(self) -> int:
        """Read the state of an interrupted command; return the recorded size of `answers` in bytes."""
        if not self._state.exists():
            return 0
        again = "Delete this folder to start again, or choose another --output."
        try:
            state = read_json(self._state)
            tally, size = Tally(**state["tally"]), int(state["num_bytes"])
            if tally.counts is not None:
                from imdbcls.data.token_counts import TokenCounts  # imported here to keep --help fast

                tally.counts = TokenCounts(**state["tally"]["counts"])
            if not self._path.exists() and self._output.stat().st_size == size:
                # The command was killed after its last row, when the answers were already in the output.
                shutil.copyfile(self._output, self._path)
            if state[FORMAT_VERSION] != ANSWERS or self._path.stat().st_size < size:
                raise ValueError("it is from another version, or a file is too short")
            before, expected = state["command"], str(state["rows_sha256"])
        except (UserError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.folder} cannot be continued ({error}). {again}") from error
        now = json.loads(json.dumps(self._command))
        different = [name for name in now if before.get(name) != now[name]]
        if different:
            raise UserError(f"{self.folder} was begun with another {' and another '.join(different)}. {again}")
        self.tally, self._expected_rows = tally, expected
        self._earlier_environment = state.get("environment")
        logger.info(f"Continuing after {tally.num_rows:,} rows, whose answers are in {self.folder}.")
        return size

    @contextlib.contextmanager
    def _opened_at(self, size: int) -> Iterator[None]:
        """Truncate the file of answers to `size` bytes, and keep it open for appending until the block ends."""
        columns, header = self._columns, size == 0
        self._path.touch()
        os.truncate(self._path, size)
        if self._format == "parquet":
            schema = arrow_schema(columns.label_names, columns.copied, columns.types)
            with open(self._path, "ab") as stream:
                self._file, self._write = stream, write_arrow(stream, schema, header=header)
                yield
        else:
            write_format = TEXT_FORMATS[self._format]
            with open(self._path, "a", encoding="utf-8", newline="") as text:
                self._file = text
                self._write = write_format(text, columns.label_names, columns.copied, header=header)
                yield

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """If the block raises, log where the answers are."""
        try:
            yield
        except BaseException:
            if self.tally.num_rows:
                logger.info(
                    f"The answers for the first {self.tally.num_rows:,} rows are in {self.folder}. The same command "
                    "continues with the next row."
                )
            raise

    def _complete(self) -> None:
        """Move the answers to the output. Remove the state last: without it, a command starts again."""
        if self._format == "parquet":
            with replacing(self._output) as temporary:
                convert_to_parquet(self._path, temporary)
        else:
            self._path.replace(self._output)
            sync(self._output.parent)
        self._state.unlink(missing_ok=True)
