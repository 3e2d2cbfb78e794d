"""The keys of a command with a file of its own in conf/: defaults, types, and one sentence for each mistake."""

import pytest
from support.runs import ROOT

from imdbcls.config.command_keys import names_of, read_arguments, read_command_keys
from imdbcls.config.options import config_keys
from imdbcls.config.pretrain_settings import PretrainSettings
from imdbcls.config.study_settings import StudySettings
from imdbcls.errors import UserError

STUDY = "study.yaml"


def mistakes(*overrides: str) -> list[str]:
    found = read_command_keys(overrides, StudySettings, STUDY)
    assert found.settings is None
    return list(found.mistakes)


def test_each_key_of_study_yaml_is_declared_described_and_has_one_default() -> None:
    keys = [each for each in config_keys(STUDY) if not each.is_section]
    assert {each.key for each in keys} == set(names_of(StudySettings))
    assert all(len(each.description) > 5 for each in config_keys(STUDY))
    assert all(field.is_required() for field in StudySettings.model_fields.values())


def test_a_shared_section_has_keys_of_the_command_and_of_its_runs() -> None:
    file = "pretrain.yaml"
    assert {each.key for each in config_keys(file) if not each.is_section} == set(names_of(PretrainSettings))
    read = read_command_keys(["data.unlabelled_limit=9", "data.path=x", "data=imdb"], PretrainSettings, file)
    assert read.mistakes == () and read.others == ("data.path=x", "data=imdb")
    assert read.settings is not None and read.settings.data.unlabelled_limit == 9


def test_keys_of_the_command_are_separated_from_those_of_its_runs() -> None:
    read = read_command_keys(["head=cls,lstm", "seeds.max=5", "+margin=0.5", "lr=1e-4"], StudySettings, STUDY)
    assert read.mistakes == () and read.others == ("head=cls,lstm", "lr=1e-4")
    assert read.settings is not None
    assert (read.settings.seeds.max, read.settings.seeds.first, read.settings.margin) == (5, 3, 0.5)
    assert read.settings.seeds.planned == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seeds.maxx=4", "seeds.maxx=4: there is no such key; closest: seeds.max, seeds.start."),
        ("seeds.max=ten", "seeds.max=ten is not a whole number from 2 to 1,000."),
        ("seeds.max=1", "seeds.max=1 is not a whole number from 2 to 1,000."),
        ("seeds.max=2", "seeds.first=3 is larger than seeds.max=2."),
        ("seeds=3", "seeds=3: seeds is a section; set one of its keys: seeds.max, seeds.first, seeds.start."),
        ("seeds.max.x=2", "seeds.max.x=2: there is no such key."),
        ("seeds.foo.max=3", "seeds.foo.max=3: there is no such key."),
        ("seeds.max", "seeds.max does not have the form key=value, such as seeds.max=10."),
        ("seeds.start=9223372036854775807", "seeds.start=9223372036854775807 is too large: the last seed would be"),
        ("margin=0.3,0.5", "margin=0.3,0.5 has several values: set one value."),
        ("margin=0", "margin=0 is not a number above 0 and below 100 or null."),
        ("~margin", "~margin: this key cannot be removed."),
        ("futility=1", "futility=1 is not true or false."),
        ("budget.hours=0", "budget.hours=0 is not a number above 0 (hours) or null."),
        ("budget.runs=2.5", "budget.runs=2.5 is not a whole number of at least 1 or null."),
    ],
)
def test_each_mistake_gives_one_sentence(override: str, sentence: str) -> None:
    (found,) = mistakes(override)
    assert found.startswith(sentence)


def test_all_mistakes_are_reported_together() -> None:
    assert len(mistakes("seeds.max=0", "margin=x", "budget.hour=1")) == 3


def test_options_are_separated_from_overrides() -> None:
    read = read_arguments(["head=cls", "--plan", "--config-dir", "mine", "lr=1e-4"], "", STUDY, ("--plan",))
    assert read.overrides == ("head=cls", "lr=1e-4") and read.config_dir == "mine" and read.flags == {"--plan"}
    read = read_arguments(["--plan=1", "--lr"], "", STUDY)
    assert read.mistakes == tuple(
        f"{flag} is not an option; write choices and keys without dashes: lr=3e-5." for flag in ("--plan=1", "--lr")
    )


def test_help_lists_the_keys_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_arguments(["--help"], "The header.", STUDY)
    text = capsys.readouterr().out
    assert caught.value.code == 0 and text.startswith("The header.\n")
    for each in config_keys(STUDY):
        assert each.is_section or f"  {each.setting} " in text


def test_a_command_refuses_to_run_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="Start this command without torchrun"):
        read_arguments([], "", STUDY)


def test_files_of_commands_have_no_interpolations() -> None:
    """These files are read without Hydra, so an interpolation would not be resolved."""
    assert "${" not in (ROOT / "conf" / STUDY).read_text()
