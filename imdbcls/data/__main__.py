"""Print the data card: `python -m imdbcls.data data=imdb data.path=aclImdb backbone=minilm max_length=256`.

The command takes the same choices and config keys as `imdbcls.train`. It reads, splits and tokenizes the documents as a
run would, and does not train.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import sys

from imdbcls.runtime import entry, limits
from imdbcls.runtime.console import columns_of, write_out
from imdbcls.runtime.process import prepare_process


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{__doc__.strip()}\n\nFor the choices and config keys, run: python -m imdbcls.train --help")
        return
    limits.require_address_space()
    from imdbcls.config.overrides import compose

    config = compose(arguments)
    prepare_process()
    from imdbcls.build import build_data_card
    from imdbcls.data.card import card_text

    write_out(card_text(build_data_card(config), columns_of(sys.stdout)))


if __name__ == "__main__":
    command()
