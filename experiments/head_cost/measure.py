"""Measure the cost of each head in training, as CPU time per step relative to `head=cls`.

    python experiments/head_cost/measure.py [--rounds 6] [--heads linear,gru] [--frozen true,false] [OVERRIDES ...]

Each head and `cls` train alternately on the same batches, with MiniLM, 128 tokens and 16 documents per batch. By
default, each head is measured with a frozen and with a trained encoder. The output of a frozen encoder comes from the
cache. For each head, the script prints its number of parameters and its speed relative to `cls`, in documents per CPU
second: the median, the lowest and the highest ratio of all rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from imdbcls import build, compose
from imdbcls.models.classifier import count_parameters
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.signals import StopRequest
from imdbcls.training.trainer import Trainer

HEADS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "head").glob("*.yaml"))
SETTINGS = (
    *("backbone=minilm", "max_length=128", "batch_size=16", "data.train_limit=96", "data.validation_limit=8"),
    *("data.test_limit=8", "tracker=none", "progress=none"),
)


def make(folder: Path, name: str, head: str, overrides: Sequence[str]) -> Trainer:
    """Build a trainer with the run folder `folder/name`. All trainers in `folder` share one cache."""
    config = compose(*SETTINGS, f"head={head}", f"data.cache_dir={folder}", *overrides)
    trainer = build.build_run(config, RunFolder(folder / name), StopRequest()).trainer
    trainer.model.train()
    return trainer


def cpu_seconds(trainer: Trainer, steps: slice) -> float:
    """Return the CPU seconds of the given steps of the first epoch, including the collation of their batches."""
    batches = trainer.batches.train.epoch(0, start_step=steps.start)
    started = time.process_time()
    for _, batch in zip(range(steps.start, steps.stop), batches, strict=False):
        trainer.step(batch)
    return time.process_time() - started


def ratios(head: Trainer, cls: Trainer, rounds: int, steps_per_round: int) -> list[float]:
    """Return the speed of a head relative to `cls` in each round. The head is measured first in every second round."""
    found = []
    num_blocks = cls.batches.train.steps_per_epoch // steps_per_round
    for number in range(-1, rounds):  # the first round prepares memory and kernels
        start = (number % num_blocks) * steps_per_round
        order = (head, cls) if number % 2 else (cls, head)
        times = {id(each): cpu_seconds(each, slice(start, start + steps_per_round)) for each in order}
        if number >= 0:
            found.append(times[id(cls)] / times[id(head)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--frozen", default="true,false", help="values of backbone.freeze (default: both)")
    arguments, overrides = parser.parse_known_args()
    for frozen in arguments.frozen.split(","):
        freeze = f"backbone.freeze={frozen}"
        with tempfile.TemporaryDirectory() as folder:
            cls = make(Path(folder), "reference", "cls", (*overrides, freeze))
            for name in arguments.heads.split(","):
                head = make(Path(folder), name, name, (*overrides, freeze))
                found = ratios(head, cls, arguments.rounds, 6 if frozen == "true" else 1)
                row = {
                    "head": name,
                    "frozen": frozen == "true",
                    "speed": round(statistics.median(found), 3),
                    "lowest": round(min(found), 3),
                    "highest": round(max(found), 3),
                    "parameters": count_parameters(head.model.head),
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
