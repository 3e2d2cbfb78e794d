"""How fast imdbcls trains and scores, against other people's loops: `python experiments/throughput/bench.py`.

Everybody gets the same documents, the same weights and the same batch size, and must compute the same loss on the first
batch. Then they take turns, so that what disturbs the machine disturbs all of them. Prints a table with bars, and saves
the figures (`--json`) and a chart (`.svg`, beside it). All contenders are in memory at once.
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

from chart import bars, drawing
from contest import Contender, Outcome, Worker, contest

import imdbcls
from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runtime.console import quiet_libraries

logger = logging.getLogger(__name__)

TRAINING = (
    Contender("original", "the original's way", tuned=False),
    Contender("trainer_default", "Trainer, defaults", tuned=False),
    Contender("trainer_best", "Trainer, at its best", tuned=False),
    Contender("trainer_tuned", "Trainer, best and tuned", tuned=True),
    Contender("ours", "imdbcls", tuned=True),
)
SCORING = (
    Contender("trainer_predict", "Trainer.predict, at its best", tuned=False),
    Contender("trainer_predict", "Trainer.predict, best and tuned", tuned=True),
    Contender("our_scoring", "imdbcls", tuned=True),
)
MACHINE = Contender("machine", "the machine", tuned=True)
SECONDS_AT_MOST = {"training": 690.0, "scoring": 120.0}  # so that all of it takes under a quarter of an hour


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # on stderr
    options = parse(arguments)
    if find_spec("accelerate") is None:
        raise UserError("Hugging Face's Trainer needs accelerate: pip install accelerate.")
    if os.getloadavg()[0] > 0.5:
        logger.info("Other programs are using this machine: the ratios are rough, the rest is not to be quoted.")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"choices": prepare(options, Path(folder)), "rounds": options.rounds}
        with Worker(MACHINE, settings) as machine:
            about = machine.call("describe")
            peaks = machine.call("peaks_gflops")
        found = ", ".join(f"{peak:,.0f} GFLOP/s in {precision}" for precision, peak in peaks.items())
        logger.info(f"{about['device']}; matrix peak {found}")
        contests = {
            task: contest(entrants, settings, options.rounds, SECONDS_AT_MOST[task])
            for task, entrants in (("training", TRAINING), ("scoring", SCORING))
        }
    figures = figures_of(contests, peaks, about, options)
    print(table(figures))
    options.json.write_text(json_text(figures, indent=2) + "\n", encoding="utf-8")
    chart = options.json.with_suffix(".svg")
    chart.write_text(drawing(figures), encoding="utf-8")
    logger.info(f"Written: {options.json} and {chart}.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm", help="as `imdbcls.train backbone=` (minilm)")
    parser.add_argument("--data", help="IMDB, as `imdbcls.train data.path=`; without it, the shipped sample")
    parser.add_argument("--documents", type=positive, default=160, help="to train on, and as many to score (160)")
    parser.add_argument("--max-length", type=positive, default=512, help="tokens per document (512)")
    parser.add_argument("--batch-size", type=positive, default=16, help="documents per training step (16)")
    parser.add_argument("--rounds", type=positive, default=3, help="of each contender, fewer if time is short (3)")
    parser.add_argument("--json", type=Path, default=Path("throughput.json"), help="where the figures go")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def prepare(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write the documents into files of their own, and return the choices by which every contender reads them.

    So a contender's memory holds these documents, and not the corpus they were drawn from.
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
        f"data.validation={folder}/validation.jsonl",  # a run needs one; nobody is timed on it
        f"data.test={folder}/test.jsonl",
        f"data.cache_dir={folder}/cache",
        f"runs_dir={folder}/runs",
        "tracker=none",
        "progress=none",
    ]


def figures_of(
    contests: dict[str, list[Outcome]], peaks: dict[str, float], about: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """What is written as JSON: `rows`, ours over each other's speed in `ratios`, and our share of the matrix peak.

    Ratios are medians over the rounds, each round compared with itself. `achieved_share` counts the operations that the
    real tokens of a training step need, three times a forward pass, against the peak of the precision in use.
    """
    ours = contests["training"][-1]
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
                outcome.contender.name: median(
                    theirs / mine for theirs, mine in zip(outcome.seconds, outcomes[-1].seconds, strict=True)
                )
                for outcome in outcomes[:-1]
            }
            for task, outcomes in contests.items()
        },
        "rows": [row_of(task, outcome) for task, outcomes in contests.items() for outcome in outcomes],
    }


def row_of(task: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "task": task,
        "name": outcome.contender.name,
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


HEADER = ("documents/s", "min to max", "tokens/s", "memory MB", "padding", "ours is")
ROW = "{:<32}{:>12}{:>18}{:>10}{:>11}{:>9}{:>9}  {}"


def table(figures: dict[str, Any]) -> str:
    lines = []
    for task, ratios in figures["ratios"].items():
        rows = [row for row in figures["rows"] if row["task"] == task]
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
    lines.append(f"\nOur training step reaches {figures['achieved_share']:.0%} of the matrix peak, real tokens alone.")
    return "\n".join(lines)


if __name__ == "__main__":
    quiet_libraries()
    try:
        main()
    except UserError as error:
        logger.error(f"bench: {error}")
        sys.exit(2)
