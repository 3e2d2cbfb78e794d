"""Check the arguments of `python -m imdbcls.train` and prepare them for Hydra."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra._internal.hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.sweeper import Sweeper

from imdbcls.config.composing import Loader
from imdbcls.config.options import groups, help_text
from imdbcls.config.packages import installed_version
from imdbcls.config.quoting import readable
from imdbcls.config.sweep_values import from_sweep_agent
from imdbcls.errors import UserError
from imdbcls.runtime.console import user_errors
from imdbcls.runtime.limits import require_address_space
from imdbcls.runtime.torchrun import require_single_process

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from imdbcls.config.assignments import Mode

DRY_RUN = "--dry-run"  # an option of the command that Hydra does not know

loader_in_use: Loader | None = None  # set by `answer_command`, for commands that Hydra runs

_validate_batch_is_legal = Sweeper.validate_batch_is_legal
# Options that may be followed by their value as a separate argument.
_WITH_VALUE = (
    *("--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--cfg", "-c", "--info", "-i", "--experimental-rerun"),
)


def answer_command(arguments: Sequence[str]) -> list[str]:
    """Return the arguments for Hydra. For `--help` and `--version`, print the text and exit.

    If there are mistakes, print all of them together and exit with code 2.
    """
    if "--version" in arguments:
        print(f"imdbcls {own_version()}")
        sys.exit(0)
    asked, unknown = get_args_parser().parse_known_args(list(arguments))
    if asked.help:
        print(help_text([Path(asked.config_dir)] if asked.config_dir else []))
        sys.exit(0)
    if asked.config_name or asked.config_path or asked.experimental_rerun:
        logger.error(
            "--config-name, --config-path and --experimental-rerun are not supported. Use --config-dir=FOLDER to add "
            "your own YAML files to the config groups."
        )
        sys.exit(2)
    if asked.hydra_help or asked.shell_completion:
        return list(arguments)
    with user_errors():
        require_address_space()
    from imdbcls.config.overrides import examine  # imported here to keep --help fast

    written = for_hydra(arguments)
    asked, unknown = get_args_parser().parse_known_args(written)
    with user_errors():
        mistakes = wrong_options(asked, unknown)
        mode: Mode = "show" if asked.cfg or asked.info else "multirun" if asked.multirun else "run"
        if mode == "multirun":
            require_single_process()
        examined = examine(asked.overrides, mode, asked.config_dir)
        if mistakes or examined.mistakes:
            raise UserError(*mistakes, *examined.mistakes)
    compose_by(examined.loader)
    if examined.is_search:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors of the sweeper instead of printing tracebacks
    if asked.info:
        logging.getLogger().handlers.clear()  # Hydra adds its own handler, which writes to stdout
    return written


def wrong_options(asked: argparse.Namespace, unknown: Sequence[str]) -> list[str]:
    """Return an error message for each unknown option and each wrong combination of options."""
    mistakes = [f"{flag} is not an option; write choices and keys without dashes: lr=3e-5." for flag in unknown]
    given = {"--run": asked.run, "--multirun": asked.multirun, "--cfg": asked.cfg, "--info": asked.info}
    modes = [mode for mode, value in given.items() if value]
    if len(modes) > 1:
        only_one = "use only one of them."
        if "--multirun" in modes and "--run" not in modes:
            only_one = "--cfg and --info show one run. Leave out --multirun, and set each key to one value."
        mistakes.append(f"{' and '.join(modes)} cannot be combined: {only_one}")
    if asked.resolve and not asked.cfg:
        mistakes.append("--resolve needs --cfg job.")
    return mistakes


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the overrides, quoted where Hydra's grammar requires quotes, followed by the options.

    Without this order, Hydra refuses overrides on both sides of an option, such as `head=lstm --multirun seed=0,1`.
    """
    options: list[str] = []
    overrides: list[str] = []
    for index, argument in enumerate(arguments):
        is_option = argument.startswith("-") or (index > 0 and arguments[index - 1] in _WITH_VALUE)
        if is_option:
            options.append(argument)
        else:
            overrides += [readable(without_plus(each)) for each in from_sweep_agent(argument)]
    return [*overrides, *options]


def without_plus(text: str) -> str:
    """Return `experiment=mine` for `+experiment=mine`.

    Hydra requires the plus for a group without a default. Every group here has a default, so Hydra would refuse the
    plus.
    """
    key = text.partition("=")[0]
    return text.lstrip("+") if key.startswith("+") and key.lstrip("+") in groups() else text


def compose_by(loader: Loader) -> None:
    """Make Hydra compose with `loader`, which has already read the YAML files and parsed the command line."""

    def make_loader(config_search_path: ConfigSearchPath) -> Loader:
        same = str(config_search_path) == str(loader.get_search_path())
        return loader if same else Loader(config_search_path, loader.named)

    def validate_batch_is_legal(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        """Let Hydra validate one job for each combination of choices of config groups, such as head=… or data=….

        The other jobs differ only in the values of keys, which `overrides.examine` has already checked.
        """
        _validate_batch_is_legal(sweeper, loader.one_for_each_base(batch))
        loader.jobs += batch

    global loader_in_use
    loader_in_use = loader
    hydra._internal.hydra.ConfigLoaderImpl = make_loader  # type: ignore[misc, assignment]
    Sweeper.validate_batch_is_legal = validate_batch_is_legal  # type: ignore[method-assign, assignment]


def own_version() -> str:
    return installed_version("imdbcls") or "(not installed)"
