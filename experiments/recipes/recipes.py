"""Compare training recipes with the default: `run` trains the missing runs, `table` compares the finished runs.

    python experiments/recipes/recipes.py run IMDB      # IMDB: any value of data.path
    python experiments/recipes/recipes.py table IMDB

The table has one row per recipe: mean accuracy, difference from the default with its paired interval over documents and
seeds, and p-value after Holm correction for all rows. `imdbcls.comparison` computes all these values.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import imdbcls
from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.pairs import compare_pairs
from imdbcls.comparison.results import PairResult
from imdbcls.comparison.samples import units_of
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import samples_of
from imdbcls.comparison.views.wording import p_cell, verdict
from imdbcls.runs.identity import group_hash
from imdbcls.runtime.console import user_errors

STUDY = "recipes"
COMMON = (
    *("backbone=minilm", "data=imdb", "data.train_limit=4000", "data.validation_limit=1000", "data.test_limit=5000"),
    *("max_length=64", "epochs=1", "lr=5e-5", "head=cls", "tracker=none", f"study={STUDY}"),
)
SEEDS = (0, 1, 2)
MARGIN = 0.005  # equivalence margin: half a point of accuracy
# Each option has the value that its description in conf/ calls usual. The values were fixed in advance and not tuned.
RECIPES = {
    "default": (),
    "lion": ("optimizer=lion", "lr=1e-5"),  # a fifth of AdamW's learning rate
    "head_lr": ("optimizer.head_lr=10",),
    "layer_decay": ("optimizer.layer_decay=0.9",),
    "label_smoothing": ("loss.label_smoothing=0.1",),
    "focal": ("loss=focal",),
    "r_drop": ("loss.r_drop=1",),
    "ema": ("trainer.ema_decay=0.98",),  # averages about 50 of the 250 steps
    "lora": ("backbone.lora_rank=8", "lr=5e-4"),  # ten times the learning rate of full fine-tuning
    "freeze_3": ("backbone.freeze=3",),
    "freeze": ("backbone.freeze=true", "lr=1e-3"),  # only the head is trained, from scratch
    "gradient_checkpointing": ("backbone.gradient_checkpointing=true",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("data", help="value of data.path for IMDB")
    parser.add_argument(
        "recipes", nargs="*", choices=[*RECIPES, []], metavar="recipe", help=f"default: all of {', '.join(RECIPES)}"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides for all runs")
    arguments = parser.parse_args()
    common = [*COMMON, f"data.path={arguments.data}", *arguments.set]
    chosen = arguments.recipes or list(RECIPES)
    if arguments.action == "run":
        for name in chosen:
            seeds = f"seed={','.join(map(str, SEEDS))}"
            command = [sys.executable, "-m", "imdbcls.train", "--multirun", *merged(common, RECIPES[name]), seeds]
            subprocess.run(command, check=False)  # if a recipe fails, continue; the table reports it as missing
    else:
        with user_errors():
            print("\n".join(table(common)))


def table(common: list[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table: first the default, then the recipes, best recipe first.

    A list below the table contains the verdict on each recipe, and the recipes that were not run or failed.
    """
    config = imdbcls.compose(*common)
    by_hash = {group.runs[0].result["group_hash"]: group for group in read_study(config.folder.parent).groups}
    groups = {name: by_hash.get(group_hash(imdbcls.compose(*merged(common, own)))) for name, own in RECIPES.items()}
    if groups["default"] is None:
        sys.exit(
            "The recipe default has no finished run. Train it first with the same --set: recipes.py run IMDB default"
        )
    yield from comparison({name: group for name, group in groups.items() if group is not None})
    yield from (f"- {name} was not run or failed." for name in RECIPES if groups[name] is None)


def comparison(groups: dict[str, Group], reference: str = "default") -> Iterator[str]:
    """Yield the table of all groups, then the verdict on each group against the group `reference` of `groups`."""
    found = {name: replace(group, name=name) for name, group in groups.items()}
    metric, names = METRICS["accuracy"], list(found)
    samples = samples_of(list(found.values()), metric, units_of(list(found.values())))
    yield "| recipe | test accuracy | difference, points | 95 % interval | p | seeds | training, s | memory, MB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    against_reference = [(i, names.index(reference)) for i, name in enumerate(names) if name != reference]
    results, _ = compare_pairs(list(found.values()), samples, metric, MARGIN, against_reference)
    pairs = {pair.a: pair for pair in results}
    for name in (reference, *sorted(pairs, key=lambda name: -pairs[name].difference)):
        accuracy = samples[names.index(name)].values_S.mean()
        pair = pairs.get(name)
        against = ["", "", ""] if pair is None else differences(pair)
        costs = [mean_of(found[name], key) for key in ("train_seconds", "peak_memory_mb")]
        cells = [name, f"{accuracy:.2%}", *against, str(len(found[name].runs)), *(f"{cost:,.0f}" for cost in costs)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for pair in pairs.values():
        yield f"- {verdict(pair, metric)}."


def merged(*parts: Sequence[str]) -> list[str]:
    """Return all overrides of a recipe. A later override replaces an earlier override of the same key."""
    return list({text.split("=")[0]: text for part in parts for text in part}.values())


def differences(pair: PairResult) -> list[str]:
    difference, low, high = 100 * pair.difference, 100 * pair.low, 100 * pair.high
    return [f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}", p_cell(pair.p_holm)]


def mean_of(group: Group, key: str) -> float:
    return sum(run.result[key] for run in group.runs) / len(group.runs)


if __name__ == "__main__":
    main()
