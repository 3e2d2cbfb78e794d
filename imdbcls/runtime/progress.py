"""Show the progress of a run: one live line on a terminal or in a notebook, and occasional log lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from imdbcls.errors import UserError
from imdbcls.printable import duration, printable_line
from imdbcls.runtime import console
from imdbcls.runtime.messages import record_message

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

ProgressMode = Literal["auto", "live", "plain", "none"]

logger = logging.getLogger(__name__)
epoch_logger = logging.getLogger(f"{__name__}.epochs")  # a sweep does not show the lines of short epochs

REPAINT_SECONDS = 0.2
# The plain mode logs a line after each tenth of the run, but at most one line every `MIN_PLAIN_SECONDS`. After
# `MAX_PLAIN_SECONDS` without a line, it logs a line to show that the run has not stopped. rich has no such mode.
MIN_PLAIN_SECONDS = 10.0
MAX_PLAIN_SECONDS = 300.0

# Until an evaluation has been timed, assume that it takes this fraction of the training time per document.
_EVALUATION_COST = 1 / 3
_EVALUATED = ("validation", "test")  # the estimated time left includes the evaluation of these splits

_BAR_WIDTHS = (10, 40)  # smallest and largest width in columns; without space for the smallest, no bar is shown
_VERBS = {"validation": "validating", "test": "testing", "encoding": "encoding", "explaining": "explaining"}


class Progress:
    """Progress of training steps and of evaluated documents, shown on stderr.

    `mode` is `live` (one repainted line), `plain` (occasional log lines), `none`, or `auto` (`live` on a terminal and
    in a notebook, else `plain`). Losses are passed as floats, and only at logged steps, because reading a tensor could
    wait for the GPU.
    """

    def __init__(self, mode: ProgressMode = "auto") -> None:
        if mode not in get_args(ProgressMode):
            raise UserError(f"progress={mode} is not one of {', '.join(get_args(ProgressMode))}.")
        if mode == "auto":
            self._style = "live" if console.shows_live() and console.shows_messages() else "plain"
        elif mode == "live" and not console.can_repaint():
            self._style = "plain"
        else:
            self._style = mode
        self.start(total_steps=0)

    def start(
        self,
        total_steps: int,
        start_step: int = 0,
        num_epochs: int | None = None,
        *,
        batch_size: int = 1,
        documents_to_evaluate: int = 0,
    ) -> None:
        """Start timing. The first `start_step` optimizer steps were done by an earlier process and are not timed.

        The time left includes the evaluation of `documents_to_evaluate` documents: validation after each remaining
        epoch, and test. `batch_size` is the number of documents per step.
        """
        self._total_steps = total_steps
        self._start_step = start_step
        self._num_epochs = num_epochs
        self._batch_size = batch_size
        self._documents_to_evaluate = documents_to_evaluate
        self._evaluated_documents = 0
        self._evaluation_seconds = 0.0
        self._loss: float | None = None
        self._documents_per_second: float | None = None
        self._last_step = start_step
        self._trained_seconds = 0.0
        self._evaluating = False
        self._printed_step = start_step
        self._resumed_at = self._stepped_at = self._shown_at = self._logged_at = time.monotonic()

    def step(self, step: int, epoch: int) -> None:
        """Show the progress of training after an optimizer step. `step` and `epoch` count from 1."""
        if self._style == "none":
            return
        self._last_step = step
        now = self._stepped_at = time.monotonic()
        is_last = step == self._total_steps
        if self._style == "live" and (now - self._shown_at >= REPAINT_SECONDS or is_last):
            self._shown_at = now
            console.paint(ProgressLine(self._training_line(step, epoch, now), step, self._total_steps))
        silence = now - self._logged_at
        tenth_done = (step - self._printed_step) * 10 >= self._total_steps
        if not is_last and ((tenth_done and silence >= MIN_PLAIN_SECONDS) or silence >= MAX_PLAIN_SECONDS):
            self._logged_at, self._printed_step = now, step
            self._log(self._training_line(step, epoch, now))

    def set_loss(self, loss: float) -> None:
        """Set the loss that the progress line shows from now on."""
        self._loss = loss

    def set_speed(self, documents_per_second: float) -> None:
        """Set the throughput that the progress line shows from now on."""
        self._documents_per_second = documents_per_second

    def log_epoch(self, text: str, seconds: float = 0.0) -> None:
        """Log one line about a finished epoch, which has taken `seconds`. On a terminal, it stays above the live line.

        The log record has the attribute `epoch_seconds`.
        """
        if self._style != "none":
            self._logged_at, self._printed_step = time.monotonic(), self._last_step
            epoch_logger.info(text, extra={"epoch_seconds": seconds})

    def for_split(self, split: str) -> Callable[[int, int], None]:
        """Return the callback `evaluating(done, total)` for a split."""
        return partial(self.evaluating, split)

    def evaluating(self, split: str, done: int, total: int) -> None:
        """Show the number of evaluated documents; `done == total` ends the evaluation. The caller logs the metrics."""
        now = time.monotonic()
        if not self._evaluating:
            self._evaluating = True
            self._trained_seconds += self._stepped_at - self._resumed_at
        finished = done >= total
        if self._style != "none":
            line = f"{_VERBS.get(split, f'evaluating {split}')} {done:,}/{total:,} documents"
            if self._style == "live" and finished:
                self._shown_at = now
                console.erase()
            elif self._style == "live" and now - self._shown_at >= REPAINT_SECONDS:
                self._shown_at = now
                console.paint(ProgressLine(line, done, total))
            if now - self._logged_at >= MAX_PLAIN_SECONDS:
                self._logged_at = now
                self._log(line)
        if finished:
            self._evaluating = False
            if split in _EVALUATED:
                self._evaluated_documents += total
                self._evaluation_seconds += now - self._stepped_at
            self._resumed_at = self._stepped_at = now

    def _log(self, line: str) -> None:
        """Log a line in the plain mode. In the live mode, pass the line only to trackers."""
        if self._style == "plain":
            logger.info(line)
        else:
            record_message(line)

    def close(self) -> None:
        """Erase the live line. If training stopped early, log the number of steps and their time.

        This method can be called twice, and after an error.
        """
        if self._style == "none":
            return
        if self._style == "live":
            console.erase()
        steps = self._last_step - self._start_step
        if steps and self._last_step < self._total_steps:
            if not self._evaluating:
                self._trained_seconds += self._stepped_at - self._resumed_at
            done = f"step {self._last_step:,}/{self._total_steps:,}"
            logger.info(f"{done}: {steps:,} steps trained in {duration(self._trained_seconds)}")
        self._start_step = self._last_step

    def _training_line(self, step: int, epoch: int, now: float) -> str:
        of_epochs = "" if self._num_epochs is None else f"/{self._num_epochs}"
        percent = f"{100 * step // self._total_steps} %"
        parts = [f"epoch {epoch}{of_epochs}", f"step {step:,}/{self._total_steps:,}  {percent}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        if self._documents_per_second is not None:
            parts.append(f"{self._documents_per_second:,.1f} documents/s")
        trained = self._trained_seconds + now - self._resumed_at
        if step > self._start_step and step < self._total_steps:
            seconds_per_step = trained / (step - self._start_step)
            left = seconds_per_step * (self._total_steps - step) + self._evaluation_left(seconds_per_step)
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _evaluation_left(self, seconds_per_step: float) -> float:
        """Return the expected time of the remaining evaluations in seconds."""
        if self._evaluated_documents:
            seconds_per_document = self._evaluation_seconds / self._evaluated_documents
        else:
            seconds_per_document = _EVALUATION_COST * seconds_per_step / self._batch_size
        return seconds_per_document * max(self._documents_to_evaluate - self._evaluated_documents, 0)


class ProgressLine:
    """A text and a progress bar on one terminal line.

    If `total` is None or the terminal is narrow, only the text is shown, truncated to the width.
    """

    def __init__(self, text: str, done: int, total: int | None) -> None:
        self._text = printable_line(text)
        self._done = done
        self._total = total

    def __rich_console__(self, terminal: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = options.max_width - 3  # if the terminal echoes `^C`, the line must not wrap
        text = Text(self._text, no_wrap=True, overflow="ellipsis")
        bar_width = width - text.cell_len - 2
        shortest, longest = _BAR_WIDTHS
        if self._total is None or bar_width < shortest:
            text.truncate(width, overflow="ellipsis")
            yield text
        else:
            line = Table.grid(padding=(0, 2, 0, 0))
            line.add_row(text, ProgressBar(total=self._total, completed=self._done, width=min(bar_width, longest)))
            yield line
