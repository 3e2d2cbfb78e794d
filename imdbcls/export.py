"""Export a finished run: `python -m imdbcls.export runs/heads/lstm-s0-1a2b3c4d --to huggingface`.

The export runs without imdbcls. Before it gets its name, its logits are compared with those of the run on real
documents, in a process that does not import imdbcls. If they differ, nothing is written.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from imdbcls.errors import UserError
from imdbcls.exports import FORMATS
from imdbcls.runtime import entry
from imdbcls.runtime.console import write_out

logger = logging.getLogger("imdbcls.export")  # `__name__` is `__main__` in a command


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    export(parse(None))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    return argument_parser().parse_intermixed_args(arguments)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.export", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("others", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="huggingface: a folder for transformers; onnx: a file for onnxruntime; torch: a torch.export program",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="the folder to write (default: RUN/export/FORMAT)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export, of this or another run")
    parser.add_argument(
        "--int8", action="store_true", help="with --to onnx: also write an int8 model, and measure its cost"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="with --to huggingface: upload the folder to the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="with --push: list what would be sent, and send nothing")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of your own that the run uses"
    )
    return parser


def export(arguments: argparse.Namespace) -> None:
    """Export the run, and upload the export if requested. Raises UserError for mistakes that the user can fix."""
    require_options(arguments)
    output = arguments.output or arguments.run / "export" / arguments.to
    if arguments.push is None or not output.exists() or arguments.overwrite:
        write(arguments, output)
    else:
        logger.info(f"{output} exists and is not written again. Add --overwrite to export again first.")
    if arguments.push is None:
        return
    from imdbcls.exports.push import send, upload_of
    from imdbcls.finished import open_finished

    _, result = open_finished(arguments.run, plugins=arguments.plugins)
    upload = upload_of(output, arguments.push, result["config_hash"], private=arguments.private)
    write_out("\n".join(upload.lines()))
    if arguments.dry_run:
        logger.info("Nothing was sent (--dry-run).")
    else:
        logger.info(f"Sent: {send(upload)}")


def require_options(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that cannot be combined, before anything is loaded."""
    if arguments.others:
        raise UserError(
            f"{arguments.others[0]}: export accepts one run. To average several runs, export each of them and average "
            "the probabilities: an average of models needs all of their weights, so one file would save nothing."
        )
    if arguments.int8 and arguments.to != "onnx":
        raise UserError("--int8 can only be used with --to onnx.")
    if arguments.push is not None:
        from imdbcls.exports.push import require_repository

        require_repository(arguments.push)
        if arguments.to != "huggingface":
            raise UserError("--push can only be used with --to huggingface.")
    elif unused := [name for name in ("private", "dry_run") if getattr(arguments, name)]:
        raise UserError(f"--{unused[0].replace('_', '-')} can only be used with --push.")


def write(arguments: argparse.Namespace, output: Path) -> None:
    """Write and check one export."""
    from imdbcls.api import load_run
    from imdbcls.exports.folder import require_new, write_export
    from imdbcls.exports.onnx_file import require_packages
    from imdbcls.exports.source import open_source, require_one_row
    from imdbcls.runtime.process import prepare_process

    require_new(output, arguments.overwrite)
    if arguments.to == "onnx":
        require_packages()
    run = load_run(arguments.run, plugins=arguments.plugins)
    require_one_row(run.config)
    prepare_process()
    source = open_source(run.folder, run.config, run.result, run.label_names, run.temperature)
    done = write_export(arguments.to, source, output, overwrite=arguments.overwrite, with_int8=arguments.int8)
    logger.info(
        f"{output}: exported, temperature {run.temperature:.3g} included. Largest difference between its logits and "
        f"those of the run: {done.verified.largest_difference:.1e} ({done.verified.num_batches} batches)."
    )
    if done.int8_cost is not None:
        write_out(done.int8_cost.sentence())


if __name__ == "__main__":
    command()
