"""Serve finished runs on this machine: `python -m imdbcls.serve runs/heads/lstm-s0-1a2b3c4d`.

A page shows calibrated probabilities and the words that moved the decision, for one run or for two side by side.
`POST /predict` and `POST /explain` return them as JSON. `--ensemble` serves the mean of several runs in place of a run.
Texts of requests that arrive within a few milliseconds are classified in one batch. The command prints its URL when the
server is ready. SIGTERM or Ctrl-C ends the command.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
from importlib.util import find_spec
from pathlib import Path

from imdbcls.config.run_options import add_run_options
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.arguments import at_least
from imdbcls.runtime.console import write_out

logger = logging.getLogger("imdbcls.serve")  # `__name__` is `__main__` in a command

DESCRIPTION = (
    "Serve one or two finished runs, or the mean of several runs, over HTTP. The server has a page to try them on a "
    "text, and returns the same answers as JSON."
)
EPILOG = (
    "The server has no authentication. By default, only programs on this machine can reach it. Texts are neither "
    "logged nor stored. Exit code: 0 after SIGTERM or Ctrl-C; 2 for a mistake in the command."
)


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    serve(argument_parser().parse_args())


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.serve", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("runs", nargs="*", type=Path, metavar="run", help="one or two folders, runs/<study>/<name>")
    parser.add_argument(
        "--ensemble",
        nargs="+",
        action="append",
        type=Path,
        default=[],
        dest="ensembles",
        metavar="RUN",
        help="serve the mean of several runs, such as the seeds of a head; the mean counts as one run",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=at_least(0), default=8000, help="port; 0 selects a free one (default: %(default)s)"
    )
    add_run_options(parser)
    limits = parser.add_argument_group("limits")
    for option, kind, default, text in (
        ("--max-texts", at_least(1), 64, "maximum number of texts in a request"),
        ("--max-characters", at_least(1), 20_000, "maximum number of characters in a text"),
        ("--max-waiting", at_least(1), 256, "maximum number of waiting texts; further requests get status 503"),
        ("--timeout", at_least(1), 60, "time limit of a request in seconds"),
        ("--batch-size", at_least(1), 32, "maximum number of texts that the models classify together"),
        ("--batch-wait", at_least(0), 4, "how long the first text of a batch waits for further texts, in milliseconds"),
    ):
        limits.add_argument(option, type=kind, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    return parser


def serve(arguments: argparse.Namespace) -> None:
    """Load the runs, and answer requests until SIGTERM or Ctrl-C.

    Raise UserError if a run is not finished, if two runs have different classes, or if the address cannot be used.
    """
    number = len(arguments.runs) + len(arguments.ensembles)
    if not 1 <= number <= 2:
        raise UserError(
            f"{number} runs were given: pass one run, or two to see them side by side. To average several runs, pass "
            "them after --ensemble."
        )
    if arguments.port > 65535:
        raise UserError(f"--port {arguments.port} is too large: choose a port up to 65535, or 0 for a free one.")
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"imdbcls.serve needs {' and '.join(missing)}: pip install 'imdbcls[serve]'.")
    from imdbcls.ensemble import Ensemble
    from imdbcls.runtime.process import prepare_process
    from imdbcls.serving.limits import Limits
    from imdbcls.serving.runs import load_models
    from imdbcls.serving.server import is_loopback, listen, run_server, url_of

    limits = Limits(
        texts=arguments.max_texts,
        characters=arguments.max_characters,
        queue=max(arguments.max_waiting, arguments.max_texts),
        seconds=arguments.timeout,
        batch=arguments.batch_size,
        wait_ms=arguments.batch_wait,
    )
    prepare_process()
    runs = load_models(arguments.runs, arguments.ensembles, plugins=arguments.plugins, device=arguments.device)
    listener = listen(arguments.host, arguments.port)
    if not is_loopback(listener):
        logger.warning(
            f"{url_of(listener)} can be reached from other machines, and the server has no authentication: anyone who "
            "reaches it can use it."
        )
    logger.info(f"Loading {' and '.join(runs.by_name)} ...")
    for model in runs.by_name.values():
        if isinstance(model, Ensemble):
            logger.info(model.cost)

    def announce() -> None:
        write_out(url_of(listener))
        logger.info("Ready. Ctrl-C ends the server.")

    run_server(runs, limits, listener, announce)


if __name__ == "__main__":
    command()
