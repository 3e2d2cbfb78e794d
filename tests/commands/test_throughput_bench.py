"""The benchmark on a tiny encoder: what it writes, and that its contenders compute the same. Nothing here is timed."""

import json
from pathlib import Path
from typing import Any, Self

import pytest
from support.runs import ROOT

from imdbcls.runtime.device import computes_bf16

BENCH = ROOT / "experiments" / "throughput"
PEERS = ["the original's way", "Trainer, defaults", "Trainer, at its best", "Trainer, best and tuned"]
SCORERS = ["Trainer.predict, at its best", "Trainer.predict, best and tuned"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the benchmark's modules found, as they are where its command runs."""
    monkeypatch.syspath_prepend(str(BENCH))


class InThisProcess:
    """A contender without a process of its own: nine times PyTorch's start would be most of the test."""

    def __init__(self, contender: Any, settings: dict[str, Any]) -> None:
        import contenders

        self.contender = contender
        self.player = getattr(contenders, contender.key)(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str) -> Any:
        return getattr(self.player, method)()


@pytest.mark.slow
def test_all_contenders_run_on_the_same_documents_and_compute_the_same_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench
    import contest
    import machine

    monkeypatch.setattr(contest, "Worker", InThisProcess)
    monkeypatch.setattr(bench, "Worker", InThisProcess)
    monkeypatch.setattr(machine, "SECONDS_PER_SIZE", 0.0)
    monkeypatch.setitem(machine.SIZES, "cpu", (256, 512))
    sizes = ("--documents=10", "--max-length=48", "--batch-size=4", "--rounds=2")
    bench.main(["--backbone=tiny", *sizes, f"--json={tmp_path / 'figures.json'}"])
    printed = capsys.readouterr().out

    figures = json.loads((tmp_path / "figures.json").read_text())
    training, scoring = ([row for row in figures["rows"] if row["task"] == task] for task in ("training", "scoring"))
    assert [row["name"] for row in training] == [*PEERS, "imdbcls"]
    assert [row["name"] for row in scoring] == [*SCORERS, "imdbcls"]
    for row in figures["rows"]:
        speed = row["documents_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert row["tokens_per_second"] > speed["median"]  # a document has several tokens
        assert row["peak_memory_mb"] > 100
        assert 0 <= row["padding_share"] < 1
        tolerance = 1e-5 if row["precision"] == "fp32" else 1e-2
        assert row["first_loss"] == pytest.approx(training[0]["first_loss"], rel=tolerance)
    assert training[0]["precision"] == training[1]["precision"] == "fp32"
    assert figures["documents"] == 10 and figures["rounds"] == 2
    assert set(figures["ratios"]["training"]) == set(PEERS) and set(figures["ratios"]["scoring"]) == set(SCORERS)
    # bfloat16's only where the hardware computes in it: elsewhere nobody does, and measuring it takes minutes.
    measured = {"fp32", "bf16"} if computes_bf16("cpu") else {"fp32"}
    assert set(figures["matrix_peak_gflops"]) == measured
    assert min(figures["matrix_peak_gflops"].values()) > 1
    assert 0 < figures["achieved_share"] < 1
    assert all(name in printed for name in [*PEERS, *SCORERS, "imdbcls"])
    assert (tmp_path / "figures.svg").read_text().startswith("<svg")


def test_a_contender_in_its_own_process_answers_and_its_end_is_noticed() -> None:
    from contest import Contender, Worker

    from imdbcls.errors import UserError

    with Worker(Contender("machine", "the machine", tuned=True), {"choices": ["backbone=tiny"]}) as worker:
        assert "torch" in worker.call("describe")
        with pytest.raises(UserError, match="The process of the machine ended early"):
            worker.call("what_it_does_not_have")


def test_contenders_that_compute_something_else_are_refused() -> None:
    from contest import Contender, Outcome, require_same_task

    from imdbcls.errors import UserError

    def outcome(name: str, precision: str, loss: float, num_tokens: int = 400) -> Outcome:
        return Outcome(Contender(name, name, tuned=False), precision, loss, 10, num_tokens, 1000)

    first = outcome("first", "fp32", 0.7)
    require_same_task([first, outcome("rounded", "bf16", 0.702), outcome("exact", "fp32", 0.700001)])
    for other in (
        outcome("other", "fp32", 0.702),
        outcome("other", "bf16", 0.72),
        outcome("other", "bf16", float("nan")),
    ):
        with pytest.raises(UserError, match=r"for other and 0\.700000 for first: they do not compute the same"):
            require_same_task([first, other])
    with pytest.raises(UserError, match="other and first did not get the same documents"):
        require_same_task([first, outcome("other", "fp32", 0.7, num_tokens=399)])


def test_operations_are_those_of_the_real_tokens() -> None:
    from machine import forward_flops

    import imdbcls
    from imdbcls import sections

    encoder = sections.build_backbone(imdbcls.compose("backbone=tiny")).encoder
    # Two layers of 64: four square products, two to and from 128; scores and context of 10 tokens each way.
    one_layer = 2 * 10 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 10 * 10 * 64
    one_token = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert forward_flops(encoder, [10], first_token_alone=False) == 2 * one_layer
    assert forward_flops(encoder, [10, 1], first_token_alone=False) == 2 * (one_layer + one_token + 4 * 64)
    num_heads = encoder.config.num_attention_heads
    assert forward_flops(encoder, [10], first_token_alone=True) == one_layer + one_token + 4 * 10 * 64 * num_heads
