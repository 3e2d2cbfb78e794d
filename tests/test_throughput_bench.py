"""The benchmark's own command, on a tiny encoder: what it writes, and that its contenders compute the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BENCH = ROOT / "experiments" / "throughput"
PEERS = ["the original's way", "Trainer, defaults", "Trainer, at its best", "Trainer, best and tuned"]
SCORERS = ["Trainer.predict, at its best", "Trainer.predict, best and tuned"]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "bench.py"), "--backbone=tiny", *arguments]
    environment = {**os.environ, "IMDBCLS_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_all_contenders_run_on_the_same_documents_and_compute_the_same_loss(tmp_path: Path) -> None:
    sizes = ("--documents=10", "--max-length=48", "--batch-size=4", "--rounds=2")
    done = bench(tmp_path, *sizes, "--json=figures.json")

    assert done.returncode == 0, done.stderr
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
    assert all(figures["matrix_peak_gflops"][precision] > 1 for precision in ("bf16", "fp32"))
    assert 0 < figures["achieved_share"] < 1
    assert all(name in done.stdout for name in [*PEERS, *SCORERS, "imdbcls"])
    assert (tmp_path / "figures.svg").read_text().startswith("<svg")


def test_contenders_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
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


def test_operations_are_those_of_the_real_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from machine import forward_flops

    import imdbcls
    from imdbcls import build

    encoder = build.build_backbone(imdbcls.compose("backbone=tiny").values).encoder
    # Two layers of 64: four square products, two to and from 128; scores and context of 10 tokens each way.
    one_layer = 2 * 10 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 10 * 10 * 64
    assert forward_flops(encoder, [10]) == 2 * one_layer
    assert forward_flops(encoder, [10, 1]) == 2 * (one_layer + 2 * (4 * 64 * 64 + 2 * 64 * 128) + 4 * 64)
