"""The console script: `imdbcls train head=lstm` does the same as `python -m imdbcls.train head=lstm`.

`imdbcls --help` lists the commands. No command is imported until one is selected.
"""

import os
import sys
from functools import partial
from importlib import import_module
from typing import NoReturn

from imdbcls.commands import COMMANDS, module_of
from imdbcls.runtime import entry


def main() -> NoReturn:
    """Run the command that the first argument names, and end the process."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        from imdbcls.completion import complete

        complete()
    entry.set_up_streams()  # before the other imports, which can hit a limit of memory or threads
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's own packages may be in this folder
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        module = import_module(module_of(name))
        sys.argv = [str(module.__file__), *arguments]  # as with `python -m`
        module.command()
    entry.run(partial(answer, name))


def answer(name: str) -> int:
    """Answer a first argument that is not a command, and return the exit code."""
    if name == "--version":
        from imdbcls.config.packages import installed_version

        print(f"imdbcls {installed_version('imdbcls') or '(not installed)'}")
    elif name in ("--help", "-h"):
        print(help_text())
    elif name == "":
        print(help_text(), file=sys.stderr)
        return 2
    else:
        reject(name)
    return 0


def reject(name: str) -> NoReturn:
    """Raise UserError. The message suggests `imdbcls train` for an override like `head=lstm`, else similar commands."""
    from difflib import get_close_matches

    from imdbcls.config.hints import nearest
    from imdbcls.errors import UserError
    from imdbcls.printable import shown

    if "=" in name:
        raise UserError(f"{shown(name)} is not a command. To train a run: imdbcls train {shown(name)}")
    near = nearest(get_close_matches(name, COMMANDS, n=2))
    raise UserError(f"{shown(name)} is not a command{near}. `imdbcls --help` lists the commands.")


def help_text() -> str:
    column = max(map(len, COMMANDS))
    commands = [f"  {name:<{column}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: imdbcls COMMAND ...",
            "       imdbcls COMMAND --help",
            "       imdbcls --version",
            "",
            *commands,
            "",
            "`python -m imdbcls.COMMAND ...` does the same as `imdbcls COMMAND ...`.",
        ]
    )


if __name__ == "__main__":
    main()
