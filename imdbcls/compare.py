"""Which group of runs is better, and is it real? `python -m imdbcls.compare runs/heads`

Reads the run folders of a study, tests every pair of groups over documents and seeds, prints a table per question, and
writes comparison.html, .json, .md and .csv, and figures. Needs no server and no network.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.console import columns_of, write_out

logger = logging.getLogger("imdbcls.compare")  # `__name__` is `__main__` in a command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where nothing can be compared."""
    choices = parse(arguments)
    try:
        compare(choices)
    except UserError as error:
        logger.error(str(error))
        return 2
    return 0


def compare(choices: argparse.Namespace) -> None:
    """Compare the study, write the files, print the tables and, if asked, send them to W&B."""
    # Imported here: scipy and statsmodels take seconds, and `--help` needs neither.
    from imdbcls.comparison.study import read_study
    from imdbcls.comparison.summary import compare_study
    from imdbcls.comparison.texts import texts_of
    from imdbcls.comparison.views.figures import figures_of
    from imdbcls.comparison.views.files import write_files
    from imdbcls.comparison.views.page import page_html
    from imdbcls.comparison.views.paper_figures import paper_figures, require_matplotlib
    from imdbcls.comparison.views.reading_list import reading_list
    from imdbcls.comparison.views.svg_figures import drawings_of
    from imdbcls.comparison.views.terminal import terminal_text

    if choices.figures:
        require_matplotlib()
    study = read_study(choices.study)
    comparison = compare_study(study, choices.margin / 100)
    figures = figures_of(comparison)
    drawings = drawings_of(figures)
    page = page_html(comparison, drawings, reading_list(study, comparison, texts_of(study)))
    folder = choices.output or choices.study
    write_files(folder, comparison, drawings, page, paper_figures(figures) if choices.figures else {})
    with entry.stdout_is_secondary():  # --wandb and --report run even if nobody reads the tables
        text = terminal_text(comparison, columns_of(sys.stdout))
        write_out(
            f"{text}\n\nWritten: {folder / 'comparison.html'} (open it in a browser); .json, .md, "
            ".csv and figures next to it."
        )
        if choices.wandb or choices.report:
            from imdbcls.tracking.log_comparison import log_comparison, tracker_settings
            from imdbcls.tracking.wandb_report import create_report

            settings = tracker_settings(study.groups[0].runs[0].config)
            if choices.wandb:
                log_comparison(comparison, drawings, page, choices.study, **settings | {"mode": choices.wandb_mode})
            if choices.report:
                write_out(create_report(comparison, project=settings["project"], entity=settings["entity"]))


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
        "--figures",
        action="store_true",
        help="also write the figures as PDF and PNG, for a column of a paper (extra: figures)",
    )
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


if __name__ == "__main__":
    entry.run(main)
