"""Test recipes with a published effect: `run` tunes each recipe and trains its winner, `table` compares the winners.

    python experiments/recipes/judge.py run IMDB      # IMDB: any value of data.path
    python experiments/recipes/judge.py table IMDB

`imdbcls.tune` gives every recipe the same number of trials, selects on validation, and trains the best values with new
seeds. Only these runs are evaluated on test. The README has the plan.
"""

import argparse
import subprocess
import sys

from recipes import comparison, merged

import imdbcls
from imdbcls.comparison.group import Group
from imdbcls.comparison.study import read_study
from imdbcls.errors import UserError
from imdbcls.runtime.console import user_errors

COMMON = (
    *("backbone=minilm", "data=imdb", "data.train_limit=1000", "data.validation_limit=1000", "data.test_limit=10000"),
    *("max_length=128", "head=cls", "epochs=3", "tracker=none", "sampler=random", "sampler_seed=0"),
    *("lr=tag(log,interval(3e-5,5e-4))", "optimizer.head_lr=tag(log,interval(1,30))"),
)
TRIALS, SEEDS = 8, 8
# A recipe's own key is searched together with lr and head_lr, in the same number of trials.
RECIPES = {
    "default": (),
    "reinit": ("backbone.reinit_layers=1,2,3",),
    "head_first": ("trainer.head_first_epochs=1", "trainer.head_first_lr=1e-3,5e-3"),
    "swa": ("trainer.swa_start=0.5,0.75", "schedule=constant"),
    "soup": ("trainer.greedy_soup=true",),
    "soup_constant": ("trainer.greedy_soup=true", "schedule=constant"),
    "head_tail": ("data.truncation=head_tail",),
    "long": ("epochs=20",),  # as many epochs as `stable`, so both recipes read the same number of tokens
    "stable": ("experiment=stable", "epochs=20", "lr=1e-5,2e-5,3e-5", "optimizer.head_lr=1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("data", help="value of data.path for IMDB")
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=f"default: all of {', '.join(RECIPES)}")
    parser.add_argument("--pretrained", metavar="RUN", help="a run of imdbcls.pretrain: adds the recipe `pretrained`")
    parser.add_argument("--reference", default="default", help="the recipe that `table` compares the others with")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides for all runs")
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials of each recipe (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each winner (default: %(default)s)")
    arguments = parser.parse_args()
    recipes = dict(RECIPES)
    if arguments.pretrained is not None:
        recipes["pretrained"] = (f"backbone.path={arguments.pretrained}",)
    chosen = arguments.recipes or list(recipes)
    if unknown := sorted({*chosen, arguments.reference} - recipes.keys()):
        parser.error(f"unknown recipe: {', '.join(unknown)}; choose from {', '.join(recipes)}")
    if arguments.action == "run":
        budget = (f"budget.trials={arguments.trials}", f"winners.seeds={arguments.seeds}")
        for name in chosen:
            study = (f"study=judged_{name}", f"data.path={arguments.data}")
            values = merged(COMMON, study, recipes[name], arguments.set)
            command = [sys.executable, "-m", "imdbcls.tune", *values, *budget]
            subprocess.run(command, check=False)  # if a recipe fails, continue; the table reports it as missing
    else:
        with user_errors():
            show(chosen, arguments.reference, arguments.set)


def show(names: list[str], reference: str, further: list[str]) -> None:
    """Print the comparison of the recipes with `reference`, and the recipes that have no finished winner."""
    root = [text for text in further if text.startswith("runs_dir=")]
    groups: dict[str, Group] = {}
    for name in dict.fromkeys([reference, *names]):
        folder = imdbcls.compose(*root, f"study=judged_{name}").folder.parent
        try:
            (groups[name],) = read_study(folder).groups
        except (UserError, ValueError) as error:
            print(f"- {name} has no single winner with finished runs: {error}")
    if reference not in groups:
        sys.exit(f"The recipe {reference} has no finished winner. Train it first: judge.py run IMDB {reference}")
    print("\n".join(comparison(groups, reference)))


if __name__ == "__main__":
    main()
