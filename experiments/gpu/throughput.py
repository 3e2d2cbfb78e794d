"""Measure training throughput on one GPU: `python experiments/gpu/throughput.py --tokenizer FOLDER`.

Each measurement trains RoBERTa-base from random weights with one head, batch size and system. The systems are `imdbcls`
and the Hugging Face Trainer with its fastest options, each with and without `torch.compile`. The most important
measurements come first, and the script stops when the time budget is used up. The results are written after each
measurement. `--tokenizer` is a folder with the encoder's config.json and tokenizer. `--dry-run` runs the same code with
a tiny encoder on the CPU in a few seconds; its figures mean nothing.
"""

import argparse
import logging
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Self

from measuring import Measurer, serve
from plan import cells, write_documents

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.console import quiet_libraries

logger = logging.getLogger(__name__)

_processes = multiprocessing.get_context("spawn")

FORMULA = (
    "mfu = 3 * forward / seconds / peak. forward counts, over the real tokens of all documents and without padding: "
    "2 operations per token and weight of a linear layer (with `imdbcls` and cls, those of the last layer only for the "
    "first token), 4 T H per token and layer for attention in a document of T tokens, and 2 per token and weight of an "
    "LSTM. Embeddings, norms, softmax and activations are not counted. peak is the data sheet's for dense bfloat16; "
    "mfu_of_measured_peak uses the best measured matrix product."
)
GOALS = {"mfu_16": 0.20, "mfu_64": 0.35, "ratio": 2.0}  # for an H100


class MeasuringProcess:
    """A process that measures. If it dies or hangs, a new process replaces it, and only one measurement is lost."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._process: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, method: str, *arguments: Any, timeout: float) -> dict[str, Any]:
        """Call a method of `Measurer`. Return its result, or the reason for its failure under the key `error`."""
        if self._process is None:
            self.start()
        try:
            self._connection.send((method, *arguments))
            if not self._connection.poll(timeout):
                self.stop()
                return {"error": f"no result within {timeout:.0f} s"}
            answer: dict[str, Any] = self._connection.recv()
        except (EOFError, ConnectionError):
            self.stop()
            return {"error": "the process ended; see its output"}
        if "error" in answer:
            self.stop()  # after a CUDA error, all later calls would also fail
        return answer

    def start(self) -> None:
        self._connection, child = _processes.Pipe()
        self._process = _processes.Process(target=serve, args=(child, *self._arguments))
        self._process.start()
        child.close()

    def stop(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._connection.close()
            self._process.join(5)
            self._process.kill()
            self._process.join()
            self._process = None


class ThisProcess(Measurer):
    """Measures in this process, for the dry run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, method: str, *arguments: Any, timeout: float = 0.0) -> dict[str, Any]:
        return super().call(method, *arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)  # logs to stderr
    started = time.monotonic()
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        choices = settings_of(options, Path(folder))
        process = ThisProcess if options.dry_run else MeasuringProcess
        with process(choices, options.rounds, options.cell_seconds) as measurer:
            measure_all(measurer, options, started)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder with the encoder's config.json and tokenizer")
    parser.add_argument("--heads", nargs="+", default=["cls", "weight_avg", "lstm"])
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[16, 64, 32],
        help="documents per step; the first two sizes are measured first",
    )
    parser.add_argument("--documents", type=int, default=2048, help="documents per round (default: 2048)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds per measurement (default: 3)")
    parser.add_argument("--budget", type=float, default=280.0, help="seconds for all measurements (default: 280)")
    parser.add_argument(
        "--cell-seconds", type=float, default=20.0, help="start no further round after this many seconds (default: 20)"
    )
    parser.add_argument(
        "--cell-limit", type=float, default=120.0, help="time limit of a measurement in seconds (default: 120)"
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="skip torch.compile")
    parser.add_argument("--output", type=Path, default=Path("gpu-throughput.json"))
    parser.add_argument("--dry-run", action="store_true", help="use a tiny encoder on the CPU")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.documents, options.rounds, options.compile, options.budget = 12, 1, False, math.inf
        options.heads, options.batch_sizes = ["cls", "lstm"], [4]
    elif options.tokenizer is None:
        parser.error("--tokenizer is required, except with --dry-run")
    return options


def settings_of(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write the documents. Return the settings that all systems share."""
    tokenizer = options.tokenizer and options.tokenizer.resolve()
    encoder = (
        ["backbone=tiny", "max_length=48", "device=cpu"]
        if options.dry_run
        else ["backbone=roberta-base", f"backbone.path={tokenizer}", "backbone.pretrained=false", "device=cuda"]
    )
    documents = write_documents(folder, options.documents, scale=0.1 if options.dry_run else 1.0)
    files = [f"data.cache_dir={folder}/cache", f"runs_dir={folder}/runs"]
    return [*encoder, *documents, *files, "tracker=none", "progress=none"]


def measure_all(measurer: Any, options: argparse.Namespace, started: float) -> None:
    """Measure all cells in order until the time budget is used up. Write all results after each cell."""

    def seconds_left() -> float:
        return options.budget - (time.monotonic() - started)

    machine = measurer.call("machine", timeout=seconds_left())
    results: dict[str, Any] = {
        "format_version": 1,
        "dry_run": options.dry_run,
        "formula": FORMULA,
        "goals": GOALS,
        "documents": options.documents,
        "machine": machine,
        "cells": [],
    }
    write(results, options.output)
    if "error" in machine:
        raise UserError(f"The speed of this machine could not be measured: {machine['error']}")
    logger.info(f"{machine['card']}: {machine['measured_tflops']:.3g} TFLOP/s measured")
    for cell in cells(options.heads, options.batch_sizes, options.compile, machine["flash_attention"]):
        left = seconds_left()
        if left < options.cell_seconds / 2:
            logger.info("The remaining time is too short for another measurement.")
            break
        measured = measurer.call("measure", cell, timeout=min(options.cell_limit, left))
        results["cells"].append({**asdict(cell), **rates(measured, machine)})
        results["summary"] = summary(results["cells"])
        write(results, options.output)
        logger.info(line(results["cells"][-1]))
    print(table(results))


def rates(measured: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """Add speeds and MFU to a measurement, unless it is an error."""
    if "error" in measured:
        return measured
    seconds = median(measured["seconds"])
    tflops, sheet = measured["flops"] / seconds / 1e12, machine["data_sheet_tflops"]
    return {
        **measured,
        "documents_per_second": measured["num_documents"] / seconds,
        "tokens_per_second": measured["num_tokens"] / seconds,
        "mfu": None if sheet is None else tflops / sheet,
        "mfu_of_measured_peak": tflops / machine["measured_tflops"],
    }


def summary(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each head and batch size, the fastest variant of each system and the ratio of their speeds.

    `losses_agree` is true if all variants had the same loss on the first batch, up to the rounding of bfloat16.
    """
    rows = []
    for head, size in dict.fromkeys((cell["head"], cell["batch_size"]) for cell in measured):
        own = [cell for cell in measured if (cell["head"], cell["batch_size"]) == (head, size) and "error" not in cell]
        best = {
            name: max(
                (cell for cell in own if cell["system"].startswith(name)),
                key=lambda cell: cell["documents_per_second"],
                default=None,
            )
            for name in ("imdbcls", "trainer")
        }
        ours, theirs = best["imdbcls"], best["trainer"]
        losses = [cell["first_loss"] for cell in own]
        rows.append(
            {
                "head": head,
                "batch_size": size,
                "imdbcls": ours and ours["system"],
                "trainer": theirs and theirs["system"],
                "mfu": ours and ours["mfu"],
                "ratio": ours and theirs and ours["documents_per_second"] / theirs["documents_per_second"],
                "losses_agree": all(abs(loss - losses[0]) <= 1e-2 * losses[0] for loss in losses),  # false for NaN
            }
        )
    return rows


def write(results: dict[str, Any], path: Path) -> None:
    write_atomically(path, json_text(results, indent=1) + "\n")


def line(cell: dict[str, Any]) -> str:
    name = f"{cell['head']:<11}{cell['batch_size']:>4}  {cell['system']:<18}"
    if "error" in cell:
        return f"{name}{cell['error']}"
    mfu = "-" if cell["mfu"] is None else f"{cell['mfu']:.1%}"
    profile = cell.get("profile", {})
    busy = f"{profile['kernels_ms'] / profile['step_ms']:.0%}" if profile.get("kernels_ms") else "-"
    return (
        f"{name}{cell['documents_per_second']:>10.1f}{mfu:>9}{cell['mfu_of_measured_peak']:>9.1%}"
        f"{cell['peak_memory_mb']:>10,.0f}{busy:>9}"
    )


def table(results: dict[str, Any]) -> str:
    title = f"{'head':<11}{'size':>4}  {'system':<18}{'docs/s':>10}{'MFU':>9}{'of meas.':>9}{'MB':>10}{'GPU busy':>9}"
    rows = [title, *map(line, results["cells"]), ""]
    for row in results.get("summary", []):
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f} x the fastest Trainer"
        different = "" if row["losses_agree"] else "  THE FIRST LOSSES DIFFER"
        rows.append(f"{row['head']} with {row['batch_size']} documents: {ratio}{different}")
    return "\n".join(rows)


if __name__ == "__main__":
    quiet_libraries()
    try:
        main()
    except UserError as error:
        logger.error(f"throughput: {error}")
        sys.exit(2)
