"""The README keeps its word: its commands compose, and a head is one module and one YAML."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.processes import TINY
from support.runs import ROOT, Launch

from imdbcls.config import overrides

README = (ROOT / "README.md").read_text(encoding="utf-8")
# The commands of `imdbcls.train`, which may go on over several lines, without their comments.
COMMANDS = [
    shlex.split(command.replace("\\\n", " "), comments=True)
    for command in re.findall(r"^(?:\$ )?python -m imdbcls\.train (.*(?:(?<=\\)\n.*)*)$", README, re.MULTILINE)
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_training_command_composes(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a multirun, the first value of each. Of files, only the header of reviews.csv is read, as README shows it."""
    monkeypatch.chdir(tmp_path)
    Path("aclImdb_v1.tar.gz").touch()
    (header,) = re.findall(r"\$ head -1 reviews.csv\n(.*)\n", README)
    Path("reviews.csv").write_text(f"{header}\n")
    choices = [word.split(",")[0] for word in command if not word.startswith("-") and word not in ("job",)]
    overrides.compose(choices)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.slow
def test_a_head_is_one_module_and_one_yaml(tmp_path: Path, launch: Launch) -> None:
    """The one that the README adds, as it stands there, in a copy of the project."""
    section = README.partition("## Add a head")[2]
    (module,) = re.findall(r"`(imdbcls/heads/\w+\.py)`:\n\n```python\n(.*?)```", section, re.DOTALL)
    (choice,) = re.findall(r"`conf/(head/\w+\.yaml)`:\n\n```yaml\n(.*?)```", section, re.DOTALL)
    shutil.copytree(ROOT / "imdbcls", tmp_path / "imdbcls", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "imdbcls" / "conf")
    for path, text in ((tmp_path / module[0], module[1]), (tmp_path / "imdbcls" / "conf" / choice[0], choice[1])):
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
    launch(tmp_path, "train", "head=first_last", *TINY, "epochs=1", fresh=True)  # which imports the copy
    (run,) = (tmp_path / "runs").glob("default/first_last-s0-*")
    assert (run / "result.json").exists()
    assert "first_last" in launch(tmp_path, "train", "--help", fresh=True).stdout
