"""Measure memory and CPU time on corpora of several sizes: `python large_corpora.py --source FILE --sizes 100000`.

For each size, a Parquet file is made by repeating the documents of `--source` (columns `text` and `label`). It is read
and split, tokenized for the data card, trained on for one epoch or `--train-steps` steps, and classified. Every command
runs in a process of its own.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from process import measure
from repeat import repeat

STEPS = ("corpus", "card", "train", "predict")
FEW = ("data.validation_limit=1000", "data.test_limit=1000", "epochs=1", "tracker=none", "trainer.log_every=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, action="append", required=True, help="a Parquet file; may be repeated")
    parser.add_argument("--sizes", default="20000,100000,1000000", help="numbers of documents, separated by commas")
    parser.add_argument("--words", type=int, help="shorten each text to this many words")
    parser.add_argument("--steps", default=",".join(STEPS), help="what to measure (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="a finished run for the step `predict`")
    parser.add_argument("--backbone", default="tiny", help="encoder for the steps `card` and `train`")
    parser.add_argument("--max-length", default="128", help="maximum number of tokens per document")
    parser.add_argument("--batch-size", default="256", help="documents per training step")
    parser.add_argument("--train-steps", type=int, help="stop training after this many steps")
    parser.add_argument("--folder", type=Path, help="folder for the files (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size in map(int, arguments.sizes.split(",")):
            path = Path(folder, f"{size}.parquet")
            repeat(arguments.source, path, size, arguments.words)
            for step in arguments.steps.split(","):
                runs, stop_at = Path(folder, f"runs-{size}"), arguments.train_steps if step == "train" else None
                command = command_of(step, path, runs, arguments)
                usage = measure(command, Path(folder, "messages.txt"), lambda runs=runs: num_steps(runs), stop_at)
                milliseconds = 1000 * usage.cpu_seconds / size
                print(
                    json.dumps({"documents": size, "step": step, **asdict(usage), "cpu_ms": milliseconds}), flush=True
                )
            path.unlink()


def num_steps(runs: Path) -> int:
    """Return the number of training steps in the log of the run in `runs`."""
    logs = list(runs.glob("*/*/metrics.jsonl"))
    return len(logs[0].read_text().splitlines()) if logs else 0


def command_of(step: str, path: Path, runs: Path, arguments: argparse.Namespace) -> list[str]:
    encoder = (f"backbone={arguments.backbone}", f"max_length={arguments.max_length}")
    data = ("data=files", f"data.train={path}", *encoder)
    if step == "predict":
        output = path.with_suffix(".jsonl")
        return [
            sys.executable,
            "-m",
            "imdbcls.predict",
            str(arguments.run),
            "--file",
            str(path),
            "--output",
            str(output),
        ]
    if step == "train":
        own = (f"batch_size={arguments.batch_size}", f"runs_dir={runs}")
        return [sys.executable, "-m", "imdbcls.train", *data, *FEW, *own]
    if step == "card":
        return [sys.executable, "-m", "imdbcls.data", *data]
    return [sys.executable, str(Path(__file__).with_name("corpus.py")), *data[:2]]


if __name__ == "__main__":
    main()
