"""List the config groups, their choices and the config keys, with the descriptions that are comments in `conf/`.

Each choice and key is described only in the YAML files. `--help` shows their comments.
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
MAX_WIDTH = 120  # characters per line of the help text
SKIPPED = ("defaults", "hydra")  # sections of config.yaml that configure Hydra, not a run

HEADER = """\
Train one run, or a sweep of several runs.

  python -m imdbcls.train head=lstm lr=3e-5                            one run
  python -m imdbcls.train --multirun head=cls,weight_avg,lstm seed=0,1 a sweep
  python -m imdbcls.train head=lstm --cfg job                          print the composed config without training
  python -m imdbcls.train --multirun head=cls,lstm seed=0,1 --dry-run  estimate hours and disk space without training

`imdbcls --help` lists the other commands, such as study (add seeds until the verdict is known), tune (tune every head
with the same budget), compare (compare finished runs) and predict (classify texts). --hydra-help lists Hydra's own
flags."""


@dataclass(frozen=True)
class ConfigKey:
    """A dotted key of a file in `conf/`, with its default and its description (the comment after the default).

    A section, such as `data`, has no default; its description is the comment above the section.
    """

    key: str
    default: str | None
    description: str

    @property
    def is_section(self) -> bool:
        return self.default is None

    @property
    def setting(self) -> str:
        return f"{self.key}={self.default}"


def groups(folders: Sequence[Path] = ()) -> dict[str, dict[str, str]]:
    """Return the description of each choice in each group, for example `groups()["head"]["lstm"]`.

    The choices in the user's own `folders` are included.
    """
    shipped = sorted((entry for entry in files(CONF).iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    found = {folder.name: dict(choices_in(folder)) for folder in shipped}
    own = [entry for folder in folders if folder.is_dir() for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for entry in own:
        if entry.name != "hydra":
            # If two files have the same name, Hydra uses the shipped file.
            found[entry.name] = dict(choices_in(entry)) | found.get(entry.name, {})
    return {group: choices for group, choices in found.items() if choices}


def choices_in(folder: Traversable) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml"), first_comment(entry.read_text(encoding="utf-8"))


def first_comment(text: str) -> str:
    """Return the first comment line of a YAML file, except Hydra's `@package` line; empty if another line is first."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return ""
        comment = line.removeprefix("#").strip()
        if not comment.startswith("@package"):
            return comment
    return ""


def choice_keys(group: str, choice: str) -> set[str]:
    """Return the keys that a choice adds to its group's section, including keys from the choices it builds on."""
    node = yaml.safe_load(files(CONF).joinpath(group, f"{choice}.yaml").read_text(encoding="utf-8")) or {}
    bases = [base for base in node.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    return set(node).union(*(choice_keys(group, base) for base in bases))


def config_keys(file: str = "config.yaml") -> list[ConfigKey]:
    """Return the sections and keys of a file in `conf/`, in order, without the sections that only Hydra reads."""
    text = files(CONF).joinpath(file).read_text(encoding="utf-8")
    return list(config_keys_in(yaml.compose(text), text.splitlines(), ""))


def config_keys_in(mapping: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[ConfigKey]:
    for key, value in mapping.value:
        if not prefix and key.value in SKIPPED:
            continue
        if isinstance(value, yaml.MappingNode):
            yield ConfigKey(prefix + key.value, None, lines[key.start_mark.line - 1].removeprefix("# "))
            yield from config_keys_in(value, lines, f"{prefix}{key.value}.")
        else:
            line = lines[value.end_mark.line]
            _, _, comment = line[value.end_mark.column :].partition("#")
            yield ConfigKey(prefix + key.value, line[value.start_mark.column : value.end_mark.column], comment.strip())


def help_text(folders: Sequence[Path] = ()) -> str:
    """Return the text of `--help`, including the choices in the user's own `folders`."""
    width = help_width()
    lines = [HEADER, "", "Groups, selected by name (head=lstm); `--cfg job` shows the keys of a choice:"]
    for group, choices in groups(folders).items():
        lines += ["", group]
        column = max(map(len, choices))
        for choice, description in choices.items():
            lines.append(hanging_indent(f"  {choice:<{column}}  ", description, width))
    lines += ["", "Keys, set by name (lr=3e-5 data.train_limit=4000), with their defaults:", ""]
    return "\n".join([*lines, *lines_of_keys(config_keys(), width)])


def lines_of_keys(keys: Sequence[ConfigKey], width: int) -> Iterator[str]:
    """Yield the lines of a list of keys with their defaults and descriptions; keys outside sections are first."""
    column = max(len(each.setting) for each in keys)
    for each in sorted(keys, key=lambda each: each.is_section or "." in each.key):
        if each.is_section:
            yield from ("", each.description)
        else:
            yield hanging_indent(f"  {each.setting:<{column}}  ", each.description, width)


def help_width() -> int:
    return min(shutil.get_terminal_size().columns, MAX_WIDTH)


def hanging_indent(start: str, text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)
