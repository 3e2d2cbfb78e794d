"""One thread that runs the models. Texts of requests that arrive close together are classified in one batch."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imdbcls.serving.limits import Limits

Answer = TypeVar("Answer")
Result = TypeVar("Result")


class BusyError(Exception):
    """The queue is full, or the server is stopping. The message is one sentence."""


@dataclass(eq=False)
class _Request(Generic[Answer]):
    """The texts of one request, and their answers so far."""

    texts: Sequence[str]
    answers: dict[int, Answer] = field(default_factory=dict)
    future: "Future[list[Answer]]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class ModelThread(Generic[Answer]):
    """A thread that classifies batches of texts and computes explanations, one at a time.

    The argument `classify` returns one answer per text. Only this thread calls `classify` and the functions that are
    passed to the method `call`. All of these calls run within `context`. A batch contains texts in the order of their
    arrival, from as many requests as fit. The thread starts a batch when the batch is full or `Limits.wait_ms` after
    its first text arrived, and at once if a call is already waiting. Texts that arrive while the thread is busy go into
    the next batch, so batches grow with the load.
    """

    def __init__(
        self,
        classify: Callable[[Sequence[str]], Sequence[Answer]],
        limits: Limits,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._classify = classify
        self._limits = limits
        self._context = context
        self._changed = threading.Condition()
        self._texts: deque[tuple[_Request[Answer], int]] = deque()  # a request, and the index of one of its texts
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    async def classify(self, texts: Sequence[str]) -> list[Answer]:
        """Return the answers for the texts of one request. If the caller is cancelled, waiting texts are dropped.

        Raise BusyError if the queue is too full for all these texts.
        """
        request: _Request[Answer] = _Request(texts)
        with self._changed:
            self._require_place(self._texts_waiting() + len(texts) <= self._limits.queue)
            self._texts.extend((request, index) for index in range(len(texts)))
            self._changed.notify()
        return await asyncio.wrap_future(request.future)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function that uses the models, such as an explanation.

        Raise BusyError if too many calls wait.
        """
        return await asyncio.wrap_future(self._submit(function))

    def call_and_wait(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function that uses the models. Call this method before the server runs."""
        return self._submit(function).result()

    @property
    def num_waiting(self) -> int:
        """The number of texts and calls that wait."""
        with self._changed:
            return self._texts_waiting() + len(self._calls)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, seconds: float) -> bool:
        """Refuse further work, finish the current batch or call, and end the thread.

        Return whether the thread ended within `seconds`. Waiting requests are not answered.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _submit(self, function: Callable[[], Result]) -> "Future[Result]":
        future: Future[Result] = Future()
        with self._changed:
            waiting = sum(not other.done() for other, _ in self._calls)
            self._require_place(waiting < self._limits.explanations)
            self._calls.append((future, function))
            self._changed.notify()
        return future

    def _require_place(self, has_place: bool) -> None:
        if self._stopping:
            raise BusyError("The server is stopping.")
        if not has_place:
            raise BusyError("The server is busy: too many requests are waiting. Try again later.")

    def _texts_waiting(self) -> int:
        """Return the number of waiting texts. If the queue is full, first drop the texts of ended requests."""
        if len(self._texts) >= self._limits.queue:
            self._texts = deque(item for item in self._texts if not item[0].future.done())
        return len(self._texts)

    def _run(self) -> None:
        with self._context():
            while self._wait():
                if batch := self._next_batch():
                    self._answer(batch)
                if (call := self._next_call()) is not None:
                    _finish(*call)

    def _wait(self) -> bool:
        """Wait until there is work: a full batch, a batch whose first text has waited long enough, or a call.

        Return False to end the thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._texts or self._calls or self._stopping)
            if self._texts and not self._calls:
                remaining = self._texts[0][0].arrived + self._limits.wait_ms / 1000 - time.monotonic()
                self._changed.wait_for(
                    lambda: len(self._texts) >= self._limits.batch or self._stopping, max(remaining, 0)
                )
            return not self._stopping

    def _next_batch(self) -> list[tuple[_Request[Answer], int]]:
        batch: list[tuple[_Request[Answer], int]] = []
        with self._changed:
            while self._texts and len(batch) < self._limits.batch:
                request, index = self._texts.popleft()
                if not request.future.done():  # cancelled, or an earlier batch with texts of this request failed
                    batch.append((request, index))
        return batch

    def _next_call(self) -> tuple["Future[Any]", Callable[[], Any]] | None:
        with self._changed:
            return self._calls.popleft() if self._calls else None

    def _answer(self, batch: Sequence[tuple[_Request[Answer], int]]) -> None:
        """Classify a batch, and finish the requests whose texts are all classified.

        If the batch fails, classify the texts of each request separately, so that one request cannot make others fail.
        """
        try:
            answers = self._classify([request.texts[index] for request, index in batch])
        except Exception as error:
            requests = list(dict.fromkeys(request for request, _ in batch))
            if len(requests) == 1:
                _set(requests[0].future, error=error)
                return
            for request in requests:
                self._answer([item for item in batch if item[0] is request])
            return
        for (request, index), answer in zip(batch, answers, strict=True):
            request.answers[index] = answer
            if len(request.answers) == len(request.texts):
                _set(request.future, [request.answers[each] for each in range(len(request.texts))])


def _finish(future: "Future[Any]", function: Callable[[], Any]) -> None:
    if future.cancelled():
        return
    try:
        result = function()
    except Exception as error:
        _set(future, error=error)
    else:
        _set(future, result)


def _set(future: "Future[Any]", result: Any = None, error: Exception | None = None) -> None:
    """Set the result or the exception of a future, unless it is cancelled."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
