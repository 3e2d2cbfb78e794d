"""Print the JSON schema of config files: `python -m imdbcls.config > imdbcls.schema.json`.

With this schema, an editor with a YAML language server completes and checks the keys and values in a file. The first
line of the file must be `# yaml-language-server: $schema=imdbcls.schema.json`.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import json

from imdbcls.config.json_schema import json_schema
from imdbcls.runtime import entry
from imdbcls.runtime.console import write_out


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="python -m imdbcls.config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main() -> None:
    argument_parser().parse_args()
    write_out(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    command()
