"""Each choice of optimisation against the default: `run` trains what is missing, `table` compares what is there.

    python experiments/recipes/recipes.py run IMDB      # IMDB: any form that data.path takes
    python experiments/recipes/recipes.py table IMDB

The table has one row per choice: its mean accuracy, the difference from the default with the paired interval over
documents and seeds, and the verdict after correction for all rows (imdbcls.comparison computes all of them).
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import imdbcls
from imdbcls.comparison.pairs import compare_pairs
from imdbcls.comparison.results import PairResult
from imdbcls.comparison.scores import score_group
from imdbcls.comparison.study import Group, read_study
from imdbcls.comparison.views.wording import p_cell, verdict
from imdbcls.runs.identity import group_hash
from imdbcls.runtime.console import user_errors

STUDY = "recipes"
COMMON = (
    *("backbone=minilm", "data=imdb", "data.train_limit=4000", "data.validation_limit=1000", "data.test_limit=5000"),
    *("max_length=64", "epochs=1", "lr=5e-5", "head=cls", "tracker=none", f"study={STUDY}"),
)
SEEDS = (0, 1, 2)
MARGIN = 0.005  # half a point of accuracy: less counts as equivalent
# What a choice needs to be itself is fixed beforehand, by the words beside it in conf/; nothing was tuned.
CHOICES = {
    "default": (),
    "lion": ("optimizer=lion", "lr=1e-5"),  # a fifth of AdamW's
    "head_lr": ("optimizer.head_lr=10",),
    "layer_decay": ("optimizer.layer_decay=0.9",),
    "label_smoothing": ("loss.label_smoothing=0.1",),
    "focal": ("loss=focal",),
    "r_drop": ("loss.r_drop=1",),
    "ema": ("trainer.ema_decay=0.98",),  # of some 50 of the 250 steps
    "lora": ("backbone.lora_rank=8", "lr=5e-4"),  # ten times the lr of all weights
    "freeze_3": ("backbone.freeze=3",),
    "freeze": ("backbone.freeze=true", "lr=1e-3"),  # a head alone, from nothing
    "gradient_checkpointing": ("backbone.gradient_checkpointing=true",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("data", help="data.path of IMDB")
    parser.add_argument("choices", nargs="*", choices=[*CHOICES, []], metavar="choice", help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="beside what all runs share")
    arguments = parser.parse_args()
    common = [*COMMON, f"data.path={arguments.data}", *arguments.set]
    chosen = arguments.choices or list(CHOICES)
    if arguments.action == "run":
        for name in chosen:
            seeds = f"seed={','.join(map(str, SEEDS))}"
            command = [sys.executable, "-m", "imdbcls.train", "--multirun", *merged(common, CHOICES[name]), seeds]
            subprocess.run(command, check=False)  # a choice that fails is missing from the table; the others go on
    else:
        with user_errors():
            print("\n".join(table(common)))


def table(common: list[str]) -> Iterator[str]:
    """The lines of a Markdown table, the default first and then the choices, best first; missing ones at the end."""
    config = imdbcls.compose(*common)
    by_hash = {group.runs[0].result["group_hash"]: group for group in read_study(config.folder.parent).groups}
    groups = {name: by_hash.get(group_hash(imdbcls.compose(*merged(common, own)))) for name, own in CHOICES.items()}
    if groups["default"] is None:
        sys.exit("The default has no finished run of this version: run it first, with the same --set.")
    found = {name: replace(group, name=name) for name, group in groups.items() if group is not None}
    scored = {name: score_group(group) for name, group in found.items()}
    yield "| choice | test accuracy | difference, points | 95 % interval | p | seeds | training, s | memory, MB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    against_default = [(group, found["default"]) for name, group in found.items() if name != "default"]
    draws = {name: draws for name, (_, draws) in scored.items()}
    pairs = {pair.a: pair for pair in compare_pairs(against_default, draws, MARGIN)}
    for name in ("default", *sorted(pairs, key=lambda name: -pairs[name].difference)):
        accuracy = scored[name][0]["test/accuracy"].mean
        pair = pairs.get(name)
        told = ["", "", ""] if pair is None else differences(pair)
        costs = [mean_of(found[name], key) for key in ("train_seconds", "peak_memory_mb")]
        cells = [name, f"{accuracy:.2%}", *told, str(len(found[name].runs)), *(f"{cost:,.0f}" for cost in costs)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for pair in pairs.values():
        yield f"- {verdict(pair)}."
    yield from (f"- {name} was not run, or failed." for name in CHOICES if name not in found)


def merged(common: list[str], own: tuple[str, ...]) -> list[str]:
    """The overrides of a choice: its own replace those that all runs share."""
    keys = {text.split("=")[0] for text in own}
    return [text for text in common if text.split("=")[0] not in keys] + list(own)


def differences(pair: PairResult) -> list[str]:
    difference, low, high = 100 * pair.difference, 100 * pair.low, 100 * pair.high
    return [f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}", p_cell(pair.corrected_p)]


def mean_of(group: Group, key: str) -> float:
    return sum(run.result[key] for run in group.runs) / len(group.runs)


if __name__ == "__main__":
    main()
