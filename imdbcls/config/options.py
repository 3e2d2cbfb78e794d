"""What there is to choose: the groups, their choices and the knobs, each with the word that stands beside it in conf/.

The YAML files are the only place where a choice or a knob is described; `--help` is read from them.
"""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

CONF = "imdbcls.conf"
MAX_WIDTH = 120  # columns of the help text
SKIPPED = ("defaults", "hydra")  # of config.yaml: how Hydra composes, not what a run does

HEADER = """\
Train one run, or a sweep of them.

  python -m imdbcls.train head=lstm lr=3e-5                            one run
  python -m imdbcls.train --multirun head=cls,weight_avg,lstm seed=0,1 a sweep
  python -m imdbcls.train head=lstm --cfg job                          show the whole configuration, run nothing

Also: imdbcls.data (what a data choice holds), imdbcls.doctor (what this machine has), imdbcls.evaluate, imdbcls.predict
and imdbcls.compare (finished runs), each by `python -m`; --hydra-help lists Hydra's own flags."""


@dataclass(frozen=True)
class Knob:
    """One key of `config.yaml`, dotted, with its default and its word as they are written there.

    A section, such as `data`, is one without a default; its word is the comment above it.
    """

    key: str
    default: str | None
    word: str

    @property
    def is_section(self) -> bool:
        return self.default is None

    @property
    def setting(self) -> str:
        return f"{self.key}={self.default}"


def groups(folders: Sequence[Path] = ()) -> dict[str, dict[str, str]]:
    """Each group's choices and their descriptions, as `groups()["head"]["lstm"]`; also those in `folders` of a user."""
    shipped = sorted((entry for entry in files(CONF).iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    found = {folder.name: dict(choices_in(folder)) for folder in shipped}
    own = [entry for folder in folders if folder.is_dir() for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for entry in own:
        if entry.name != "hydra":
            found[entry.name] = dict(choices_in(entry)) | found.get(entry.name, {})  # Hydra finds the shipped first
    return {group: choices for group, choices in found.items() if choices}


def choices_in(folder: Traversable) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml"), description(entry.read_text(encoding="utf-8"))


def description(text: str) -> str:
    """A YAML's first comment line, Hydra's `@package` aside; empty where a key comes first."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return ""
        words = line.removeprefix("#").strip()
        if not words.startswith("@package"):
            return words
    return ""


def choice_keys(group: str, choice: str) -> set[str]:
    """The keys that a choice brings into its group's section, those of the choice it builds on included."""
    node = yaml.safe_load(files(CONF).joinpath(group, f"{choice}.yaml").read_text(encoding="utf-8")) or {}
    bases = [base for base in node.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    return set(node).union(*(choice_keys(group, base) for base in bases))


def knobs() -> list[Knob]:
    """Every key of `config.yaml` that a run reads, in its order."""
    text = files(CONF).joinpath("config.yaml").read_text(encoding="utf-8")
    return list(knobs_in(yaml.compose(text), text.splitlines(), ""))


def knobs_in(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Knob]:
    for key, value in mapping.value:
        if not prefix and key.value in SKIPPED:
            continue
        if isinstance(value, yaml.MappingNode):
            yield Knob(prefix + key.value, None, lines[key.start_mark.line - 1].removeprefix("# "))
            yield from knobs_in(value, lines, f"{prefix}{key.value}.")
        else:
            line = lines[value.end_mark.line]
            _, _, word = line[value.end_mark.column :].partition("#")
            yield Knob(prefix + key.value, line[value.start_mark.column : value.end_mark.column], word.strip())


def help_text(folders: Sequence[Path] = ()) -> str:
    """The answer to `--help`, with the choices in a user's `folders`."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = [HEADER, "", "Groups, chosen by name (head=lstm); a choice's own keys are in its `--cfg job`:"]
    for group, choices in groups(folders).items():
        lines += ["", group]
        column = max(map(len, choices))
        for choice, words in choices.items():
            lines.append(hanging(f"  {choice:<{column}}  ", words, width))
    lines += ["", "Knobs, set by key (lr=3e-5 data.train_limit=4000), with their defaults:", ""]
    shown = sorted(knobs(), key=lambda knob: knob.is_section or "." in knob.key)  # those of no section first
    column = max(len(knob.setting) for knob in shown)
    for knob in shown:
        if knob.is_section:
            lines += ["", knob.word]
        else:
            lines.append(hanging(f"  {knob.setting:<{column}}  ", knob.word, width))
    return "\n".join(lines)


def hanging(start: str, words: str, width: int) -> str:
    return textwrap.fill(words, width, initial_indent=start, subsequent_indent=" " * len(start))
