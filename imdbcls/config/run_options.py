"""The options of all commands that open finished runs."""

import argparse
from typing import get_args

from imdbcls.config.choices import Device


def add_run_options(parser: argparse.ArgumentParser, *, has_device: bool = True) -> None:
    """Add `--plugins` and, with `has_device`, `--device`."""
    if has_device:
        parser.add_argument(
            "--device", choices=get_args(Device), help="device to run on (default: the device in the run's config)"
        )
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of your own that the run uses"
    )
