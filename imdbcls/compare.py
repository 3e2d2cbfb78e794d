"""Which group of runs is better, and is it real? `python -m imdbcls.compare runs/heads`

Reads the run folders of a study, tests every pair of groups over documents and seeds, prints a table per question, and
writes comparison.html, .json, .md and .csv. Needs no server and no network.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imdbcls.comparison.export import csv_text, json_text, markdown_text
from imdbcls.comparison.figures import figures_of
from imdbcls.comparison.groups import Study, read_study
from imdbcls.comparison.page import page_html, standalone
from imdbcls.comparison.report import compare_study
from imdbcls.comparison.run_files import plain
from imdbcls.comparison.tables import tables_of
from imdbcls.comparison.terminal import terminal_text
from imdbcls.console import guard_terminal, say, warn, write_out
from imdbcls.errors import UserError
from imdbcls.runs import write_atomically
from imdbcls.tracking.comparison import log_comparison, settings_beside
from imdbcls.tracking.report import create_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where nothing can be compared."""
    guard_terminal()
    choices = parse(arguments)
    try:
        compare(choices)
    except UserError as error:
        say(f"imdbcls: {error}")
        return 2
    except BrokenPipeError:  # the reader, `head` say, has enough; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def compare(choices: argparse.Namespace) -> None:
    """Compare the study, print the tables, write the files and, where asked, log them."""
    study = read_study(choices.study)
    texts = load_texts(study)
    comparison, reading = compare_study(
        study, choices.margin / 100, lambda ids: {i: texts[i] for i in ids if i in texts}
    )
    figures = figures_of(comparison)
    page = page_html(comparison, figures, reading)
    written = write_files(choices.output or choices.study, comparison, figures, page)
    write_out(f"{terminal_text(comparison)}\n\n{written}")

    settings = settings_beside(study.groups[0].runs[0].config)
    if choices.wandb:
        log_comparison(
            study.name, choices.study, tables_of(comparison), figures, page, **settings | {"mode": choices.wandb_mode}
        )
    if choices.report:
        project, entity = settings["project"], settings["entity"]
        write_out(
            create_report(study.name, comparison["headline"], tables_of(comparison), project=project, entity=entity)
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.compare", description="Compare the runs of one study.")
    parser.add_argument("study", type=Path, help="the study's folder, such as runs/heads")
    parser.add_argument(
        "--margin",
        type=margin,
        default=0.3,
        help="groups this close, in points of accuracy, are equivalent (default 0.3)",
    )
    parser.add_argument("--output", type=Path, help="where the files go (default: the study's folder)")
    parser.add_argument(
        "--wandb", action="store_true", help="also log the comparison as a W&B run, with its tables, figures and page"
    )
    parser.add_argument(
        "--wandb-mode",
        choices=["auto", "online", "offline"],
        default="auto",
        help="auto: online where a key is configured",
    )
    parser.add_argument("--report", action="store_true", help="also save a W&B report and workspace (extra: report)")
    return parser.parse_args(arguments)


def margin(text: str) -> float:
    value = float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(
            f"{text} is not a margin; give points of accuracy between 0 and 100, such as 0.3"
        )
    return value


def load_texts(study: Study) -> dict[str, str]:
    """The test documents' texts by id, where the data can still be read here; else none, and a line says why."""
    from imdbcls.data import read_texts

    run = study.groups[0].runs[0]
    try:
        return read_texts(run.config, str(run.result.get("split_hash")))
    except Exception as error:  # a stranger's configuration can fail in any way, and nothing else depends on texts
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warn(f"the page shows no texts of documents: {kind}{plain(str(error), 400)}")
        return {}


def write_files(folder: Path, comparison: dict[str, Any], figures: dict[str, str], page: str) -> str:
    """Write the comparison's files and say which; raises UserError where the folder takes none."""
    drawings = folder / "comparison_figures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "comparison.json", json_text(comparison))
        write_atomically(folder / "comparison.md", markdown_text(comparison))
        write_atomically(folder / "comparison.csv", csv_text(comparison))
        write_atomically(folder / "comparison.html", page)
        if drawings.is_symlink():  # a stranger's study could point it anywhere
            drawings.unlink()
        drawings.mkdir(exist_ok=True)
        for name, figure in figures.items():
            write_atomically(drawings / f"{name}.svg", standalone(figure))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another with --output.") from error
    return f"Written: {folder / 'comparison.html'} (open it in a browser); .json, .md, .csv and figures beside it."


if __name__ == "__main__":
    sys.exit(main())
