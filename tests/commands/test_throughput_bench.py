"""The throughput benchmark on a tiny encoder: its output, and equal losses of all systems. No speed is tested."""

import json
from pathlib import Path
from typing import Any, Self

import pytest
from support.runs import ROOT

from imdbcls.runtime.device import computes_bf16

BENCH = ROOT / "experiments" / "throughput"
BASELINES = ["original loop", "Trainer, defaults", "Trainer, fast", "Trainer, fast and tuned"]
PREDICTION_BASELINES = ["Trainer.predict, fast", "Trainer.predict, fast and tuned"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of the benchmark importable, as they are for its command."""
    monkeypatch.syspath_prepend(str(BENCH))


class InThisProcess:
    """A system without its own process, because nine imports of PyTorch would take most of the test's time."""

    def __init__(self, spec: Any, settings: dict[str, Any]) -> None:
        import systems

        self.system = spec
        self._instance = getattr(systems, spec.key)(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str) -> Any:
        return getattr(self._instance, method)()


@pytest.mark.slow
def test_all_systems_use_the_same_documents_and_compute_the_same_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench
    import benchmark
    import machine

    monkeypatch.setattr(benchmark, "Worker", InThisProcess)
    monkeypatch.setattr(bench, "Worker", InThisProcess)
    monkeypatch.setattr(machine, "SECONDS_PER_SIZE", 0.0)
    monkeypatch.setitem(machine.SIZES, "cpu", (256, 512))
    sizes = ("--documents=10", "--max-length=48", "--batch-size=4", "--rounds=2")
    bench.main(["--backbone=tiny", *sizes, f"--json={tmp_path / 'results.json'}"])
    printed = capsys.readouterr().out

    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    training, prediction = ([row for row in rows if row["task"] == task] for task in ("training", "prediction"))
    assert [row["name"] for row in training] == [*BASELINES, "imdbcls"]
    assert [row["name"] for row in prediction] == [*PREDICTION_BASELINES, "imdbcls"]
    for row in rows:
        speed = row["documents_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert row["tokens_per_second"] > speed["median"]  # a document has several tokens
        assert row["peak_memory_mb"] > 100
        assert 0 <= row["padding_share"] < 1
        tolerance = 1e-5 if row["precision"] == "fp32" else 1e-2
        assert row["first_loss"] == pytest.approx(training[0]["first_loss"], rel=tolerance)
    assert training[0]["precision"] == training[1]["precision"] == "fp32"
    assert results["documents"] == 10 and results["rounds"] == 2
    assert set(results["ratios"]["training"]) == set(BASELINES) and set(results["ratios"]["prediction"]) == set(
        PREDICTION_BASELINES
    )
    # bfloat16 is measured only if the hardware supports it, because emulation takes minutes.
    measured = {"fp32", "bf16"} if computes_bf16("cpu") else {"fp32"}
    assert set(results["matrix_peak_gflops"]) == measured
    assert min(results["matrix_peak_gflops"].values()) > 1
    assert 0 < results["achieved_share"] < 1
    assert all(name in printed for name in [*BASELINES, *PREDICTION_BASELINES, "imdbcls"])
    assert (tmp_path / "results.svg").read_text().startswith("<svg")


def test_worker_returns_results_and_reports_early_end() -> None:
    from benchmark import SystemSpec, Worker

    from imdbcls.errors import UserError

    with Worker(SystemSpec("machine", "the machine", tuned=True), {"choices": ["backbone=tiny"]}) as worker:
        assert "torch" in worker.call("describe")
        with pytest.raises(UserError, match="The process of the machine ended early"):
            worker.call("what_it_does_not_have")


def test_systems_that_compute_a_different_function_are_refused() -> None:
    from benchmark import Outcome, SystemSpec, require_same_task

    from imdbcls.errors import UserError

    def outcome(name: str, precision: str, loss: float, num_tokens: int = 400) -> Outcome:
        return Outcome(SystemSpec(name, name, tuned=False), precision, loss, 10, num_tokens, 1000)

    first = outcome("first", "fp32", 0.7)
    require_same_task([first, outcome("rounded", "bf16", 0.702), outcome("exact", "fp32", 0.700001)])
    for other in (
        outcome("other", "fp32", 0.702),
        outcome("other", "bf16", 0.72),
        outcome("other", "bf16", float("nan")),
    ):
        with pytest.raises(
            UserError, match=r"for other and 0\.700000 for first, so the two systems compute different functions"
        ):
            require_same_task([first, other])
    with pytest.raises(UserError, match="other and first did not get the same documents"):
        require_same_task([first, outcome("other", "fp32", 0.7, num_tokens=399)])


def test_forward_flops_count_only_real_tokens() -> None:
    from machine import forward_flops

    import imdbcls
    from imdbcls import sections

    encoder = sections.build_backbone(imdbcls.compose("backbone=tiny")).encoder
    # Each of two layers has four products of 64 x 64, two of 64 x 128, and the scores and sums of attention.
    one_layer = 2 * 10 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 10 * 10 * 64
    one_token = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert forward_flops(encoder, [10], first_token_only=False) == 2 * one_layer
    assert forward_flops(encoder, [10, 1], first_token_only=False) == 2 * (one_layer + one_token + 4 * 64)
    num_heads = encoder.config.num_attention_heads
    assert forward_flops(encoder, [10], first_token_only=True) == one_layer + one_token + 4 * 10 * 64 * num_heads
