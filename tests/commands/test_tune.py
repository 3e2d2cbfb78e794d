"""The command line of `python -m imdbcls.tune`: all mistakes together, before any heavy import."""

import subprocess
import sys

import pytest

from imdbcls import tune
from imdbcls.errors import UserError


def test_all_mistakes_are_reported_together_without_torch_and_optuna() -> None:
    code = (
        "import sys\nfrom imdbcls import tune\nfrom imdbcls.errors import UserError\n"
        "try: tune.read_command(['head=cls,lst', 'seed=0,1', 'budget.trials=0', 'pruner=x', '--nope'])\n"
        "except UserError as error: print(error)\n"
        "assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sentences = (
        *("head=lst is not one of", "a seed is not tuned", "budget.trials=0 is not", "pruner=x is not one of"),
        "--nope is not an option",
    )
    assert all(sentence in output for sentence in sentences) and len(output.splitlines()) == len(sentences)


def test_missing_optuna_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        tune.read_command(["experiment=quickstart", "head=cls,lstm"])
    assert str(error.value) == "imdbcls.tune needs Optuna. Install it with: pip install optuna."


def test_a_planned_study_of_winners_needs_two_groups() -> None:
    with pytest.raises(UserError, match=r"winners\.study=true needs two or more groups"):
        tune.read_command(["experiment=quickstart", "winners.study=true"])


@pytest.mark.parametrize(
    ("arguments", "num_seeds"),
    [([], 3), (["winners.study=true"], 10), (["winners.study=true", "winners.seeds=20"], 20)],
)
def test_a_planned_study_of_winners_has_more_seeds(arguments: list[str], num_seeds: int) -> None:
    command = tune.read_command(["experiment=quickstart", "head=cls,mean", *arguments])
    assert command.settings.winners.num_seeds == num_seeds


def test_one_seed_is_not_enough_for_a_planned_study() -> None:
    with pytest.raises(UserError, match=r"a study needs at least 2 seeds per group"):
        tune.read_command(["experiment=quickstart", "head=cls,mean", "winners.study=true", "winners.seeds=1"])


def test_help_lists_the_keys_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        tune.read_command(["--help"])
    output = capsys.readouterr().out
    assert exit_.value.code == 0 and "python -m imdbcls.tune head=cls,lstm budget.trials=20" in output
    assert all(
        key in output for key in ("pruner=median", "budget.hours=null", "winners.seeds=null", "space.lr=tag(log")
    )
