"""The model thread batches texts of concurrent requests, limits its queue, and isolates failing requests."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from support.limits import HANG_SECONDS

from imdbcls.serving.limits import Limits
from imdbcls.serving.model_thread import BusyError, ModelThread


class Lengths:
    """A stand-in for a model: returns the length of each text, records each batch, and waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, texts: Sequence[str]) -> list[int]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.gate.wait(HANG_SECONDS)
        if "bad" in texts:
            raise ValueError("a bad text")
        return [len(text) for text in texts]


def test_requests_that_arrive_together_are_one_batch_and_get_their_own_answers() -> None:
    classify = Lengths()
    models = ModelThread(classify, Limits(batch=8, wait_ms=1000 * HANG_SECONDS))

    async def ask() -> list[list[int]]:
        return await asyncio.gather(*(models.classify(["x" * n, "y" * (n + 10)]) for n in range(1, 5)))

    started = time.monotonic()
    assert asyncio.run(ask()) == [[1, 11], [2, 12], [3, 13], [4, 14]]
    assert [len(batch) for batch in classify.batches] == [8]
    assert time.monotonic() - started < HANG_SECONDS / 2, "a full batch does not wait"
    assert models.stop(HANG_SECONDS)


def test_a_long_request_is_split_and_a_single_text_waits_only_for_wait_ms() -> None:
    classify = Lengths()
    models = ModelThread(classify, Limits(batch=4, wait_ms=1))
    assert asyncio.run(models.classify(["a", "bb"] * 5)) == [1, 2] * 5
    assert [len(batch) for batch in classify.batches] == [4, 4, 2]
    assert asyncio.run(models.classify(["abc"])) == [3]
    assert models.stop(HANG_SECONDS)


def test_a_batch_that_fails_does_not_fail_other_requests() -> None:
    classify = Lengths()
    models = ModelThread(classify, Limits(batch=4, wait_ms=1000 * HANG_SECONDS))

    async def ask() -> list[object]:
        requests = [models.classify(texts) for texts in (["one"], ["good", "bad"], ["four"])]
        return await asyncio.gather(*requests, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert first == [3] and third == [4] and isinstance(second, ValueError)
    assert asyncio.run(models.call(lambda: "alive")) == "alive"
    assert models.stop(HANG_SECONDS)


def test_full_queue_refuses_requests_and_cancelled_texts_free_their_places() -> None:
    classify = Lengths()
    classify.gate.clear()
    models = ModelThread(classify, Limits(batch=1, wait_ms=0, queue=2, explanations=1))

    async def scenario() -> None:
        running = asyncio.create_task(models.classify(["running"]))
        await asyncio.to_thread(classify.entered.wait, HANG_SECONDS)
        waiting = asyncio.create_task(models.classify(["a", "b"]))
        call = asyncio.create_task(models.call(lambda: "called"))
        await asyncio.sleep(0)
        assert models.num_waiting == 3
        with pytest.raises(BusyError, match="busy"):
            await models.classify(["c"])
        with pytest.raises(BusyError, match="busy"):
            await models.call(lambda: None)
        waiting.cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(models.classify(["last"]))
        await asyncio.sleep(0)
        classify.gate.set()
        assert await running == [7] and await last == [4] and await call == "called"

    asyncio.run(scenario())
    assert classify.batches == [["running"], ["last"]], "cancelled texts are not classified"
    assert models.stop(HANG_SECONDS)


def test_a_stopped_thread_refuses_work_and_a_busy_one_is_reported() -> None:
    classify = Lengths()
    classify.gate.clear()
    models = ModelThread(classify, Limits(wait_ms=0))
    thread = threading.Thread(target=lambda: asyncio.run(models.classify(["a"])))
    thread.start()
    assert classify.entered.wait(HANG_SECONDS)
    assert not models.stop(0.01)
    with pytest.raises(BusyError, match="stopping"):
        asyncio.run(models.classify(["b"]))
    classify.gate.set()
    thread.join(HANG_SECONDS)
    assert models.stop(HANG_SECONDS) and not models.is_alive
