"""Complete commands in a shell: `eval "$(imdbcls completion bash)"`.

The package argcomplete reads the command line of the shell and completes options. This module completes config groups,
choices and keys.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from glob import escape, glob
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.lexers import split_line

from imdbcls.commands import COMMANDS, module_of
from imdbcls.config.options import choice_keys, config_keys, groups
from imdbcls.runtime import entry

SHELLS = ("bash", "zsh", "fish")
CONFIG = "config.yaml"
# Command with overrides → the file in conf/ with the command's own keys, and the flags of the command.
OVERRIDES = {
    "train": (CONFIG, "--multirun", "--dry-run", "--resolve"),
    "pretrain": ("pretrain.yaml",),
    "study": ("study.yaml", "--plan"),
    "tune": ("tune.yaml",),
    "data": (CONFIG,),
}
NOT_SET = {"_target_", "_partial_", "_convert_", "name", "source"}  # keys of a choice that users rarely set
WITH_VALUE = ("--cfg", "--config-dir")


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdbcls.completion",
        description="Print the script that completes `imdbcls` commands in a shell.",
        epilog="Add one line to the startup file of the shell. In ~/.bashrc: "
        'eval "$(imdbcls completion bash)". In ~/.zshrc, after compinit: eval "$(imdbcls completion zsh)". In '
        "~/.config/fish/config.fish: imdbcls completion fish | source",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def main() -> None:
    print(argcomplete.shellcode(["imdbcls"], shell=argument_parser().parse_args().shell))


def complete() -> NoReturn:
    """Write the completions that the shell asks for, and end the process."""
    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    if len(words) > 1 and words[1] in COMMANDS:
        os.environ["_ARGCOMPLETE"] = "2"  # the arguments start after the second word
        parser = parser_of(words[1])
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--version", action="store_true")
        add_positional(parser, "command", lambda **_: COMMANDS)
    argcomplete.autocomplete(parser, always_complete_options=False)
    raise AssertionError  # autocomplete ends the process


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return a parser for the arguments of a command, with the completers of its arguments."""
    if name not in OVERRIDES:
        parser: argparse.ArgumentParser = import_module(module_of(name)).argument_parser()
        for action in parser._actions:
            if action.dest in ("run", "runs", "ensembles", "disagreement"):
                action.completer = run_folders  # type: ignore[attr-defined]
        return parser
    parser, (file, *flags) = OptionsFirst(), OVERRIDES[name]
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    if name == "train":
        parser.add_argument("--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("--config-dir")
    add_positional(parser, "overrides", Overrides(dict.fromkeys([file, CONFIG])), nargs="*")
    return parser


def add_positional(parser: argparse.ArgumentParser, name: str, completer: Any, **options: Any) -> None:
    parser.add_argument(name, **options).completer = completer  # type: ignore[attr-defined]


class OptionsFirst(argparse.ArgumentParser):
    """A parser that accepts overrides before, between and after options."""

    def parse_known_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        if args and args[-1] in WITH_VALUE:  # the word to complete is the value of this option
            return super().parse_known_args(args, namespace)
        pairs = zip(args, ["", *args], strict=False)
        options = [word for word, before in pairs if word.startswith("-") or before in WITH_VALUE]
        overrides = [word for word in args if word not in options]
        return super().parse_known_args([*options, *overrides], namespace)


class Overrides:
    """Complete an override: keys (`lr=`) and groups (`head=`), then choices (`head=lstm`) or the default of a key.

    `files` are the files in conf/ that contain the keys.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.keys = [each for file in files for each in config_keys(file) if not each.is_section]

    def __call__(self, prefix: str, parsed_args: argparse.Namespace, **_: Any) -> dict[str, str]:
        """Return the completions of `prefix`, each with a description."""
        known = groups([Path(parsed_args.config_dir)] if parsed_args.config_dir else [])
        key, has_value, value = prefix.partition("=")
        if key in known and has_value:  # complete the last value, because a sweep lists several values
            start = prefix[: len(prefix) - len(value.rpartition(",")[2])]
            return {start + choice: description for choice, description in known[key].items()}
        if has_value:
            keys = [each for each in self.keys if each.key == key and not (each.default or "").startswith("${")]
            return {each.setting: each.description for each in keys}
        return {
            **{f"{group}=": "" for group in known},
            **{f"{each.key}=": each.description for each in self.keys},
            **{f"{key}=": "" for override in parsed_args.overrides or () for key in keys_of(override)},
        }


def keys_of(override: str) -> Iterator[str]:
    """Yield the dotted keys that the shipped choices in an override such as `head=lstm,mean` add to their group."""
    group, _, choices = override.partition("=")
    for choice in set(choices.split(",")) & groups().get(group, {}).keys():
        yield from (f"{group}.{key}" for key in sorted(choice_keys(group, choice) - NOT_SET))


def run_folders(prefix: str, **_: Any) -> list[str]:
    """Return the folders of finished runs whose path begins with `prefix`, or all in runs/ if `prefix` has no slash.

    If there are none, return the files and folders that begin with `prefix`.
    """
    start = escape(prefix if "/" in prefix else "runs/")
    found = [glob(f"{start}{pattern}result.json") for pattern in ("*/", "*/*/")]
    return sorted(str(Path(path).parent) for paths in found for path in paths) or FilesCompleter()(prefix)


if __name__ == "__main__":
    command()
