"""Compare the speed of training and prediction with baselines: `python experiments/throughput/bench.py`.

All systems get the same documents, weights and batch size, and must compute the same loss on the first batch. The
systems then take turns, so that other load on the machine affects all of them equally. The script prints a table with
bars, and writes the results as JSON (`--json`) and as a chart (an SVG file next to the JSON file). All systems are in
memory at the same time.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import Outcome, SystemSpec, Worker, benchmark
from chart import bars, drawing

import imdbcls
from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runtime.console import quiet_libraries

logger = logging.getLogger(__name__)

TRAINING = (
    SystemSpec("original", "original loop", tuned=False),
    SystemSpec("trainer_default", "Trainer, defaults", tuned=False),
    SystemSpec("trainer_best", "Trainer, fast", tuned=False),
    SystemSpec("trainer_tuned", "Trainer, fast and tuned", tuned=True),
    SystemSpec("imdbcls_training", "imdbcls", tuned=True),
)
PREDICTION = (
    SystemSpec("trainer_predict", "Trainer.predict, fast", tuned=False),
    SystemSpec("trainer_predict", "Trainer.predict, fast and tuned", tuned=True),
    SystemSpec("imdbcls_prediction", "imdbcls", tuned=True),
)
MACHINE = SystemSpec("machine", "the machine", tuned=True)
MAX_SECONDS = {"training": 690.0, "prediction": 120.0}  # keeps the total below a quarter of an hour


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # logs to stderr
    options = parse(arguments)
    if find_spec("accelerate") is None:
        raise UserError("The Hugging Face Trainer needs accelerate: pip install accelerate.")
    if os.getloadavg()[0] > 0.5:
        logger.info("Other programs are using this machine. The ratios are approximate; do not quote the other values.")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"choices": prepare(options, Path(folder)), "rounds": options.rounds}
        with Worker(MACHINE, settings) as machine:
            about = machine.call("describe")
            peaks = machine.call("peaks_gflops")
        found = ", ".join(f"{peak:,.0f} GFLOP/s in {precision}" for precision, peak in peaks.items())
        logger.info(f"{about['device']}; matrix peak {found}")
        outcomes = {
            task: benchmark(specs, settings, options.rounds, MAX_SECONDS[task])
            for task, specs in (("training", TRAINING), ("prediction", PREDICTION))
        }
    results = results_of(outcomes, peaks, about, options)
    print(table(results))
    options.json.write_text(json_text(results, indent=2) + "\n", encoding="utf-8")
    chart = options.json.with_suffix(".svg")
    chart.write_text(drawing(results), encoding="utf-8")
    logger.info(f"Wrote {options.json} and {chart}.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm", help="as in `imdbcls.train backbone=` (default: minilm)")
    parser.add_argument("--data", help="IMDB, as in `imdbcls.train data.path=` (default: the shipped sample)")
    parser.add_argument(
        "--documents", type=positive, default=160, help="documents to train on and to predict (default: 160)"
    )
    parser.add_argument("--max-length", type=positive, default=512, help="tokens per document (default: 512)")
    parser.add_argument("--batch-size", type=positive, default=16, help="documents per training step (default: 16)")
    parser.add_argument(
        "--rounds", type=positive, default=3, help="rounds per system; fewer if they would take too long (default: 3)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("throughput.json"), help="file for the results (default: throughput.json)"
    )
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def prepare(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write the documents to files, and return the overrides with which every system reads these files.

    A system then has only the sampled documents in memory, not the complete corpus.
    """
    data = ("data=sample",) if options.data is None else ("data=imdb", f"data.path={options.data}")
    limits = [f"data.{split}_limit={options.documents}" for split in ("train", "validation", "test")]
    from imdbcls.construction import build_corpus

    corpus = build_corpus(imdbcls.compose(f"backbone={options.backbone}", *data, *limits).data)
    for name in ("train", "validation", "test"):
        documents = getattr(corpus, name)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for text, label in zip(documents.texts, documents.labels, strict=True):
                file.write(json.dumps({"text": text, "label": corpus.label_names[label]}) + "\n")
    return [
        f"backbone={options.backbone}",
        f"max_length={options.max_length}",
        f"batch_size={options.batch_size}",
        "data=files",
        f"data.train={folder}/train.jsonl",
        f"data.validation={folder}/validation.jsonl",  # required, but validation is not timed
        f"data.test={folder}/test.jsonl",
        f"data.cache_dir={folder}/cache",
        f"runs_dir={folder}/runs",
        "tracker=none",
        "progress=none",
    ]


def results_of(
    outcomes: dict[str, list[Outcome]], peaks: dict[str, float], about: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Return the JSON document, with `rows`, `ratios` and `achieved_share`.

    A ratio is the speed of imdbcls relative to another system: the median over the rounds. `achieved_share` is the rate
    of operations in training, as a fraction of the matrix peak in the same precision. A training step counts as three
    forward passes over its real tokens.
    """
    ours = outcomes["training"][-1]
    flops_per_second = 3 * ours.forward_flops / median(ours.seconds)
    return {
        "format_version": 1,
        "backbone": options.backbone,
        "data": options.data or "sample",
        "documents": ours.num_documents,
        "max_length": options.max_length,
        "batch_size": options.batch_size,
        "rounds": len(ours.seconds),
        "machine": about,
        "matrix_peak_gflops": peaks,
        "achieved_share": flops_per_second / 1e9 / peaks[ours.precision],
        "ratios": {
            task: {
                outcome.system.name: median(
                    theirs / mine for theirs, mine in zip(outcome.seconds, of_task[-1].seconds, strict=True)
                )
                for outcome in of_task[:-1]
            }
            for task, of_task in outcomes.items()
        },
        "rows": [row_of(task, outcome) for task, of_task in outcomes.items() for outcome in of_task],
    }


def row_of(task: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "task": task,
        "name": outcome.system.name,
        "precision": outcome.precision,
        "documents_per_second": {
            "median": outcome.num_documents / median(outcome.seconds),
            "min": outcome.num_documents / max(outcome.seconds),
            "max": outcome.num_documents / min(outcome.seconds),
        },
        "tokens_per_second": outcome.num_tokens / median(outcome.seconds),
        "peak_memory_mb": outcome.peak_memory_mb,
        "padding_share": outcome.padding_share,
        "first_loss": outcome.first_loss,
    }


HEADER = ("documents/s", "min to max", "tokens/s", "memory MB", "padding", "imdbcls is")
ROW = "{:<32}{:>12}{:>18}{:>10}{:>11}{:>9}{:>12}  {}"


def table(results: dict[str, Any]) -> str:
    lines = []
    for task, ratios in results["ratios"].items():
        rows = [row for row in results["rows"] if row["task"] == task]
        lines += ["", ROW.format(task, *HEADER, "").rstrip()]
        for row, bar in zip(rows, bars([row["documents_per_second"]["median"] for row in rows]), strict=True):
            speed = row["documents_per_second"]
            ratio = f"{ratios[row['name']]:.1f} x" if row["name"] in ratios else ""
            lines.append(
                ROW.format(
                    row["name"],
                    f"{speed['median']:.1f}",
                    f"{speed['min']:.1f} to {speed['max']:.1f}",
                    f"{row['tokens_per_second']:,.0f}",
                    f"{row['peak_memory_mb']:,.0f}",
                    f"{row['padding_share']:.1%}",
                    ratio,
                    bar,
                )
            )
    lines.append(
        f"\nA training step of imdbcls reaches {results['achieved_share']:.0%} of the matrix peak (real tokens only)."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    quiet_libraries()
    try:
        main()
    except UserError as error:
        logger.error(f"bench: {error}")
        sys.exit(2)
