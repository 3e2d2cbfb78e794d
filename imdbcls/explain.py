"""Show which words moved a decision: `python -m imdbcls.explain runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from chosen rows of a file (`--file reviews.csv --row 3`), or from stdin, one per
line. A terminal shows each text with coloured words. A pipe or a file gets a table of the strongest words, or JSON.
`--output` also writes a page. `--disagreement` writes a page with the test documents on which two runs differ most.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from imdbcls.config.run_options import add_run_options
from imdbcls.data.answers import Item, require_output
from imdbcls.data.text_arguments import add_column_options, column_options, require_text_options, texts_of
from imdbcls.data.unlabeled import Texts
from imdbcls.ensemble import leading_folders
from imdbcls.errors import UserError
from imdbcls.printable import json_line
from imdbcls.runtime import entry
from imdbcls.runtime.arguments import at_least
from imdbcls.runtime.console import columns_of, write_out

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.explanations import Explanation
    from imdbcls.finished_run import FinishedRun

logger = logging.getLogger("imdbcls.explain")  # `__name__` is `__main__` in a command

COUNT = 10  # default number of documents for --disagreement
DESCRIPTION = (
    "Show which words moved the decision of a finished run, with integrated gradients. Needs the package captum."
)


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    arguments = parse(None)
    if arguments.disagreement is None:
        explain_texts(arguments, sys.stdin, sys.stdout)
    else:
        explain_disagreement(arguments)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser()
    found = parser.parse_intermixed_args(arguments)  # options may appear between the run and the texts
    if found.run is None and found.disagreement is None:
        parser.error("pass the folder of a run, or --disagreement RUN RUN2")
    return found


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.explain", description=DESCRIPTION)
    parser.add_argument("run", nargs="?", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("texts", nargs="*", help="texts to explain (default: the lines of stdin, if --file is absent)")
    add_column_options(parser, with_pairs=False)
    parser.add_argument(
        "--row",
        type=int,
        action="append",
        dest="rows",
        metavar="NUMBER",
        help="number of a row of --file to explain, as in the answers of imdbcls.predict (can be repeated)",
    )
    parser.add_argument("--target", metavar="CLASS", help="the class to explain (default: the most probable class)")
    parser.add_argument("--json", action="store_true", help="write one line of JSON per text")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the explanations as an HTML page")
    parser.add_argument(
        "--disagreement",
        nargs=2,
        type=Path,
        metavar=("RUN", "RUN2"),
        help="write a page with the test documents on which two runs differ most (default file: "
        "disagreement-<name>-<name>.html in the study folder, or in the current folder if the runs are from different "
        "studies)",
    )
    parser.add_argument("--count", type=at_least(1), help=f"number of documents for --disagreement (default: {COUNT})")
    parser.add_argument("--data", metavar="PATH", help="for --disagreement: read the documents from your copy at PATH")
    add_run_options(parser)
    return parser


def explain_texts(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Explain the texts that the arguments select, and write the explanations.

    Raise UserError if options cannot be combined, if the run is not finished, or if a row cannot be read.
    """
    folders, _ = leading_folders([str(arguments.run), *arguments.texts])
    if len(folders) > 1:
        raise UserError(
            f"explain explains one run, but {folders[1]} is a second folder. To see where two runs differ: python -m "
            f"imdbcls.explain --disagreement {folders[0]} {folders[1]}"
        )
    require_options(arguments)
    from imdbcls.api import load_run

    run = load_run(arguments.run, plugins=arguments.plugins, device=arguments.device)
    logger.info(f"{arguments.run}: loading the model")  # the imports below take seconds
    from imdbcls.explanations import explain
    from imdbcls.explanations.attribution import require_captum
    from imdbcls.explanations.explaining import require_single_texts
    from imdbcls.explanations.html import Section, Side, about, page_html

    require_captum()
    require_single_texts(run)  # before `texts_of`, whose errors ask for pairs
    if (note := precision_note(run.config)) is not None:
        logger.info(note)
    sections: list[Section] = []
    for item in chosen(texts_of(arguments, stdin, run.config.data.source.arguments), arguments.rows):
        assert item.text is not None  # `chosen` raises UserError for an item without a text
        explanation = explain(run, item.text, arguments.target)
        show(explanation, item, arguments.json, stdout, is_first=not sections)
        title = f"Text {item.number:,}" if "id" not in item.copied else f"Text {item.copied['id']}"
        sections.append(Section(title, "", [Side(about(run), explanation)]))
    if arguments.output is not None:
        page = page_html(
            title=f"Explanations of {run.folder.name}",
            headline="Which words moved the decision?",
            about="The stronger the colour of a word, the more the word moved the prediction.",
            sections=sections,
        )
        write_page(arguments.output, page)


def precision_note(config: "Config") -> str | None:
    """Return a note if `predict` and `explain` compute in different precisions with this config, else None."""
    from imdbcls.runtime.device import choose_hardware

    if choose_hardware(config.device, config.precision).precision == "fp32":
        return None
    return "explain computes in float32 and predict in bf16, so their probabilities can differ in the third digit."


def require_options(arguments: argparse.Namespace) -> None:
    """Before anything is loaded, raise UserError if options cannot be combined."""
    if arguments.count is not None or arguments.data is not None:
        raise UserError("--count and --data can only be used with --disagreement.")
    require_text_options(arguments, [] if arguments.rows is None else ["--row"])
    if arguments.file is not None and arguments.rows is None:
        raise UserError(
            f"--file={arguments.file} needs --row NUMBER for each row to explain. imdbcls.predict shows the numbers of "
            "the rows."
        )


def chosen(texts: Texts, numbers: Sequence[int] | None) -> Iterator[Item]:
    """Yield all items, or only the items with the given numbers.

    Raise UserError if there is no item with one of the numbers, or if an item to yield has no text.
    """
    missing = None if numbers is None else set(numbers)
    last = 0
    for item in texts.items:
        last = item.number
        if missing is not None and item.number not in missing:
            continue
        if item.text is None:
            raise UserError(f"{texts.name}: {texts.unit} {item.number:,} has no text to explain. Choose another --row.")
        yield item
        if missing is not None:
            missing.remove(item.number)
            if not missing:
                return
    if missing:
        raise UserError(
            f"--row {min(missing)}: {texts.name} has no row with this number; the number of its last row is {last:,}."
        )


def show(explanation: "Explanation", item: Item, as_json: bool, stdout: TextIO, *, is_first: bool) -> None:
    """Write one explanation: as JSON if `as_json`, else with colours on a terminal and as a table elsewhere."""
    from imdbcls.explanations.terminal import json_answer, print_coloured, table_text

    columns = columns_of(stdout)
    if as_json:
        answer = json_answer(explanation, item.number, item.copied)
        stdout.write(json_line(answer, ascii_only=not entry.takes_unicode(stdout)) + "\n")
        stdout.flush()
        return
    if not is_first:
        stdout.write("\n")
    if columns is None or os.environ.get("NO_COLOR"):
        write_out(table_text(explanation))
    else:
        print_coloured(explanation, stdout, columns)


def explain_disagreement(arguments: argparse.Namespace) -> None:
    """Write a page of the documents on which two runs differ most, with the explanations of both runs.

    Raise UserError if options cannot be combined, or if the runs or their documents cannot be read.
    """
    first, second = arguments.disagreement
    options = [arguments.file, arguments.rows, arguments.target, *column_options(arguments).values()]
    if arguments.run is not None or arguments.json or any(value is not None for value in options):
        raise UserError(
            "--disagreement RUN RUN2 explains test documents of the runs. Leave out texts, --json, --target, and the "
            "options for files."
        )
    if first.resolve() == second.resolve():
        raise UserError(f"--disagreement {first} {second}: the two runs are the same. Pass two different runs.")
    output = default_output(first, second) if arguments.output is None else arguments.output
    require_output(output, None)
    from imdbcls.api import load_run

    loaded = [load_run(path, plugins=arguments.plugins, device=arguments.device) for path in (first, second)]
    logger.info(f"{first} and {second}: loading the documents and the models")  # the imports below take seconds
    from imdbcls.explanations.attribution import require_captum
    from imdbcls.explanations.disagreement import disagreement_page
    from imdbcls.explanations.explaining import require_single_texts
    from imdbcls.runtime.progress import Progress

    require_captum()
    for run in loaded:
        require_single_texts(run)
    one, other = (with_data(run, arguments.data) for run in loaded)
    count, progress = arguments.count or COUNT, Progress().for_split("explaining")
    page = disagreement_page((one, other), count, progress, is_own_data=arguments.data is not None)
    write_page(output, page)


def default_output(first: Path, second: Path) -> Path:
    """Return `disagreement-<name>-<name>.html` in the study folder of both runs, or else in the current folder."""
    name = f"disagreement-{first.resolve().name}-{second.resolve().name}.html"
    same_study = first.resolve().parent == second.resolve().parent
    return (first.parent if same_study else Path()) / name


def with_data(run: "FinishedRun", data: str | None) -> "FinishedRun":
    """Return a copy of the run that reads its documents from the path `data`, or the run itself if `data` is None."""
    from dataclasses import replace

    from imdbcls.runs.data_origin import read_from

    if data is None:
        return run
    source = read_from(run.config.data.source.node, data)
    return replace(run, config=run.config.with_changes(data={"source": source}))


def write_page(path: Path, page: str) -> None:
    from imdbcls.runtime.atomic import write_atomically

    try:
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written ({error.strerror}). Choose another file.") from error
    logger.info(f"Wrote {path}")


if __name__ == "__main__":
    command()
