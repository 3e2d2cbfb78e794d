"""`python -m imdbcls.study`: its help, and all mistakes in the arguments together, before any heavy import."""

import pytest
from support.imports import heavy_imports
from support.runs import ROOT

from imdbcls.config.options import config_keys, groups
from imdbcls.errors import UserError
from imdbcls.study import KEYS, read_command

TINY = ("backbone=tiny", "data=sample")


def mistakes(*arguments: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_command([*TINY, *arguments])
    return str(caught.value).splitlines()


def test_help_shows_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_command(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "python -m imdbcls.study head=cls,lstm,mean" in text
    assert all(f"  {each.setting} " in text for each in config_keys(KEYS) if not each.is_section)


def test_all_mistakes_are_reported_together() -> None:
    assert mistakes("head=cls,lstmm", "seed=0,1", "seeds.max=0", "lrr=1", "--fast") == [
        "--fast is not an option; write choices and keys without dashes: lr=3e-5.",
        "seeds.max=0 is not a whole number from 2 to 1,000.",
        "seed=0,1: the study itself chooses the seeds; set seeds.max and seeds.start instead.",
        f"head=lstmm is not one of {', '.join(groups()['head'])}; closest: lstm, bilstm, last.",
        "lrr: there is no such key; closest: lr.",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("head=cls",), "A study compares at least two groups: list several values, such as"),
        ((), "A study compares at least two groups"),
        (
            ("head=cls,lstm", "budget.runs=5"),
            "budget.runs=5 is less than the 6 runs before the first test of the groups: "
            "2 groups with seeds.first=3 seeds. Set a larger budget.runs.",
        ),
        (("head=cls", "metric=accuracy,f1"), "metric=accuracy,f1: the groups of a study are compared by one metric."),
        (("head=cls,lstm", "--config-dir=nowhere"), "--config-dir=nowhere is not a folder."),
    ],
)
def test_each_mistake_gives_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    (found,) = mistakes(*arguments)
    assert found.startswith(sentence)


def test_a_command_has_settings_and_groups() -> None:
    command = read_command([*TINY, "head=cls,lstm", "seeds.max=4", "experiment=heads"])
    assert [group.name for group in command.groups] == ["cls", "lstm"]
    assert command.settings.seeds.planned == (0, 1, 2, 3)


@pytest.mark.parametrize("arguments", [["--help"], ["head=cls,lstm", "lrr=1"], ["head=cls"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    expected = "0" if arguments == ["--help"] else "2"
    assert heavy_imports("imdbcls.study", arguments, ROOT) == (expected, "set()")
