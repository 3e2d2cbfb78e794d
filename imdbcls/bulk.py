"""Classify any number of rows in chunks, and write the answers."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from imdbcls.data.answer_file import AnswerFile, AnswerStream, Columns, Tally
from imdbcls.data.answers import Answer, Item, format_of
from imdbcls.data.unlabeled import Texts, in_chunks, in_shard
from imdbcls.ensemble import Ensemble, runs_of
from imdbcls.errors import UserError
from imdbcls.runtime.row_progress import RowProgress

if TYPE_CHECKING:
    from imdbcls.data.token_counts import TokenCounts
    from imdbcls.finished_run import FinishedRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The destination of the answers: the file `output`, or `stdout` if `output` is None."""

    output: Path | None
    stdout: TextIO
    format: str | None  # one of `FORMATS`; None: `format_of` chooses the format

    @property
    def shows_progress(self) -> bool:
        """Whether to show a progress line. The line is hidden if the answers go to a terminal."""
        return self.output is not None or not self.stdout.isatty()


def classify(
    given: Texts, model: "FinishedRun | Ensemble", target: Target, *, shard: tuple[int, int], calibrated: bool
) -> Tally:
    """Classify the texts of a shard and write the answers. Return the counts of all answered rows.

    Raise UserError if a row cannot be read, or if the output was begun by another command.
    """
    with opened(target, model, given, shard=shard, calibrated=calibrated) as output:
        items = output.remaining(in_shard(given.items, shard))
        with progress_of(target, given, output.tally) as progress:
            for chunk in in_chunks(items, output.tally.num_rows):
                on_progress = progress.chunk(len(chunk), chunk[-1].number)
                answers = answer(chunk, model, on_progress, calibrated=calibrated)
                if isinstance(output, AnswerStream):
                    progress.erase()  # the reader of a pipe may write to the same terminal
                output.write(*answers)
    return output.tally


@contextmanager
def opened(
    target: Target, model: "FinishedRun | Ensemble", given: Texts, *, shard: tuple[int, int], calibrated: bool
) -> Iterator[AnswerFile | AnswerStream]:
    """Open the output. If the output is a regular file, the same command can continue it after an interruption."""
    output, columns = target.output, Columns(model.label_names, given.copied, given.types)
    format_ = format_of(target.format, output, target.stdout)
    if output is None:
        yield AnswerStream(target.stdout, format_, columns)
    elif output.exists() and not output.is_file():
        if format_ == "parquet":
            raise UserError(
                f"--output={output} is not a regular file, so it cannot be written as Parquet. Choose another --format "
                "or --output."
            )
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield AnswerStream(stream, format_, columns)
    else:
        runs = runs_of(model)
        results = [(run.folder / "result.json").read_bytes() for run in runs]
        command = {
            "run": [hashlib.sha256(result).hexdigest() for result in results],
            "device": runs[0].config.device,
            "shard": list(shard),
            "calibration": calibrated,
        }
        with AnswerFile(output, format_, columns, command, lambda: runs[0].environment).opened() as file:
            yield file


@contextmanager
def progress_of(target: Target, given: Texts, tally: Tally) -> Iterator[RowProgress]:
    """Yield a progress line, and remove it after the block. The line is hidden if the answers go to a terminal."""
    shows = target.shows_progress
    progress = RowProgress(given.last_number() if shows else None, tally.num_rows, tally.last_number, shows=shows)
    try:
        yield progress
    finally:
        progress.erase()


def answer(
    chunk: Sequence[Item],
    model: "FinishedRun | Ensemble",
    on_progress: Callable[[int, int], None],
    *,
    calibrated: bool,
) -> "tuple[list[Answer], TokenCounts | None]":
    """Classify the texts of a chunk. Return one answer per item, and the token counts of the texts.

    The counts are None if no item has a text.
    """
    texts = [item.document for item in chunk if item.document is not None]
    if not texts:
        return [Answer(item, None, None) for item in chunk], None
    predictions, counts = model.predict_with_counts(texts, on_progress, calibrated=calibrated)
    found = iter(zip(predictions.names, predictions.known_probabilities.tolist(), strict=True))
    return [Answer(item, *((None, None) if item.text is None else next(found))) for item in chunk], counts
