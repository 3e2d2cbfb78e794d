"""Export finished runs: `python -m imdbcls.export runs/heads/lstm-s0-1a2b3c4d --to huggingface`.

The exported model runs without imdbcls. Before the export is saved, a process without imdbcls loads the export and
computes the logits of real documents. If these logits differ from the logits of the run, nothing is saved. Several runs
become one model that averages their calibrated probabilities.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from imdbcls.config.run_options import add_run_options
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
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="run",
        help="the run's folder, runs/<study>/<name>; several runs, such as the seeds of a head, become one model that "
        "averages their probabilities",
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="huggingface: a folder for transformers; onnx: a file for onnxruntime; torch: a torch.export program",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder to write (default, for one run: RUN/export/FORMAT)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export, of this or another run")
    parser.add_argument(
        "--int8", action="store_true", help="with --to onnx: also write an int8 model, and measure its cost"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="with --to huggingface: upload the folder to the Hub")
    parser.add_argument("--private", action="store_true", help="with --push: create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="with --push: list what would be sent, and send nothing")
    add_run_options(parser, has_device=False)
    return parser


def export(arguments: argparse.Namespace) -> None:
    """Export the runs, and upload the export if requested. Raise UserError for mistakes that the user can fix."""
    require_options(arguments)
    output = arguments.output or arguments.runs[0] / "export" / arguments.to
    if arguments.push is None or not output.exists() or arguments.overwrite:
        write(arguments, output)
    else:
        logger.info(f"{output} exists and is used unchanged. Add --overwrite to export again before the upload.")
    if arguments.push is None:
        return
    from imdbcls.exports.push import send, upload_of
    from imdbcls.exports.source import config_hash_of
    from imdbcls.finished import open_finished

    results = [open_finished(run, plugins=arguments.plugins)[1] for run in arguments.runs]
    upload = upload_of(output, arguments.push, config_hash_of(results), private=arguments.private)
    write_out("\n".join(upload.lines()))
    if arguments.dry_run:
        logger.info("Nothing was sent (--dry-run).")
    else:
        logger.info(f"Sent: {send(upload)}")


def require_options(arguments: argparse.Namespace) -> None:
    """Before anything is loaded, raise UserError if options cannot be combined."""
    if len(arguments.runs) > 1 and arguments.output is None:
        raise UserError(
            f"{len(arguments.runs)} runs were given: add --output DIR, because an ensemble belongs to no run folder."
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
    from imdbcls.ensemble import Ensemble

    runs = [load_run(run, plugins=arguments.plugins) for run in arguments.runs]
    logger.info(f"{' and '.join(map(str, arguments.runs))}: loading the model")  # the imports below take seconds
    from imdbcls.exports.folder import require_new, write_export
    from imdbcls.exports.onnx_file import require_packages
    from imdbcls.exports.source import open_source
    from imdbcls.runtime.process import prepare_process

    require_new(output, arguments.overwrite)
    if arguments.to == "onnx":
        require_packages()
    prepare_process()
    source = open_source(runs)
    if source.is_ensemble:
        logger.info(Ensemble(source.runs).cost)
    done = write_export(arguments.to, source, output, overwrite=arguments.overwrite, with_int8=arguments.int8)
    temperatures = ", ".join(f"{run.temperature:.3g}" for run in source.runs)
    logger.info(
        f"{output}: exported with temperature {temperatures}. Largest difference between the logits of the export "
        f"and of the {'mean' if source.is_ensemble else 'run'}: {done.verified.largest_difference:.1e} "
        f"({done.verified.num_batches} batches)."
    )
    if done.int8_cost is not None:
        write_out(done.int8_cost.sentence())


if __name__ == "__main__":
    command()
