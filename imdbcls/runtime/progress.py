"""How far a run has come: one live line on a terminal, sparse plain lines elsewhere."""

import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from imdbcls.errors import UserError
from imdbcls.runtime import console

MODES = ("auto", "live", "plain", "none")

_REPAINT_SECONDS = 0.2
# A plain line is due after a tenth of the run, but not sooner than this ...
_PLAIN_SECONDS = 10.0
# ... and in any case after this, so that the log of a long run shows that it lives.
_PLAIN_SILENCE_SECONDS = 300.0

_VERBS = {"validation": "validating", "test": "testing", "encoding": "encoding"}


class Progress:
    """Shows the steps of training and the documents of an evaluation on stderr.

    ``mode`` is ``live`` (one repainted line), ``plain`` (a line about every tenth of the run), ``none``, or ``auto``:
    live where stderr is a terminal. Nothing here reads a tensor: losses arrive as floats, at logged steps only.
    """

    def __init__(self, mode: str = "auto") -> None:
        if mode not in MODES:
            raise UserError(f"progress={mode} is not known: use one of {', '.join(MODES)}.")
        self._style: Literal["live", "plain", "none"]
        if mode == "auto":
            self._style = "live" if console.is_terminal() else "plain"
        elif mode == "live" and console.is_shared():
            self._style = "plain"
        else:
            self._style = mode  # type: ignore[assignment]
        self.start(total_steps=0)

    def start(self, total_steps: int, start_step: int = 0, num_epochs: int | None = None) -> None:
        """Begins the clock; ``start_step`` optimizer steps were done by an earlier process and are not timed."""
        self._total_steps = total_steps
        self._start_step = start_step
        self._num_epochs = num_epochs
        self._loss: float | None = None
        self._documents_per_second: float | None = None
        self._last_step = start_step
        self._trained_seconds = 0.0
        self._evaluating = False
        self._printed_step = start_step
        self._resumed_at = self._stepped_at = self._shown_at = time.monotonic()

    def step(self, step: int, epoch: int) -> None:
        """After each optimizer step: the steps done, and the current epoch, counted from 1."""
        if self._style == "none":
            return
        self._last_step = step
        now = self._stepped_at = time.monotonic()
        if self._style == "live":
            if now - self._shown_at >= _REPAINT_SECONDS or step == self._total_steps:
                self._shown_at = now
                console.paint(self._training_line(step, epoch, now))
            return
        silence = now - self._shown_at
        tenth_done = (step - self._printed_step) * 10 >= self._total_steps
        if (tenth_done and silence >= _PLAIN_SECONDS) or silence >= _PLAIN_SILENCE_SECONDS or step == self._total_steps:
            self._shown_at, self._printed_step = now, step
            console.say(self._training_line(step, epoch, now))

    def logged(self, loss: float, documents_per_second: float) -> None:
        """The figures of a logged point; they stay on show until the next one."""
        self._loss = loss
        self._documents_per_second = documents_per_second

    def of(self, split: str) -> Callable[[int, int], None]:
        """``evaluating`` for one split: what takes the documents done and the total."""
        return partial(self.evaluating, split)

    def evaluating(self, split: str, done: int, total: int) -> None:
        """Documents scored so far; ``done == total`` ends the evaluation, whose result is the caller's to say."""
        now = time.monotonic()
        if not self._evaluating:
            self._evaluating = True
            self._trained_seconds += self._stepped_at - self._resumed_at
        finished = done >= total
        if self._style != "none":
            line = f"{_VERBS.get(split, f'evaluating {split}')} {done:,}/{total:,} documents"
            if self._style == "live" and (finished or now - self._shown_at >= _REPAINT_SECONDS):
                self._shown_at = now
                console.paint("" if finished else line)
            elif self._style == "plain" and now - self._shown_at >= _PLAIN_SILENCE_SECONDS:
                self._shown_at = now
                console.say(line)
        if finished:
            self._evaluating = False
            self._resumed_at = self._stepped_at = now

    def close(self) -> None:
        """Removes the live line and says how long the training took; safe to call twice, and after an error."""
        if self._style == "none":
            return
        if self._style == "live":
            console.paint("")
        steps = self._last_step - self._start_step
        if steps:
            if not self._evaluating:
                self._trained_seconds += self._stepped_at - self._resumed_at
            done = f"step {self._last_step:,}/{self._total_steps:,}"
            console.say(f"{done}: {steps:,} steps trained in {_duration(self._trained_seconds)}")
        self._start_step = self._last_step

    def _training_line(self, step: int, epoch: int, now: float) -> str:
        of_epochs = "" if self._num_epochs is None else f"/{self._num_epochs}"
        parts = [f"epoch {epoch}{of_epochs}", f"step {step:,}/{self._total_steps:,}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        if self._documents_per_second is not None:
            parts.append(f"{self._documents_per_second:,.1f} documents/s")
        trained = self._trained_seconds + now - self._resumed_at
        if step > self._start_step and step < self._total_steps:
            parts.append(f"{_duration(trained / (step - self._start_step) * (self._total_steps - step))} left")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
