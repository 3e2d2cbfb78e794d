"""Compare the groups of a study, or the systems in a file: `python -m imdbcls.compare runs/heads` or `predictions.csv`.

The command reads the run folders of a study, or a file of predictions that any tool can write. It tests every pair of
groups over documents and seeds, and prints a summary or, with --full, all tables. It writes comparison.html, .json,
.md, .tex, .csv and figures. The network is used only for --wandb.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from imdbcls.config.choices import MetricName
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.console import columns_of, write_out

if TYPE_CHECKING:
    from imdbcls.comparison.study import Study

logger = logging.getLogger("imdbcls.compare")  # `__name__` is `__main__` when this module runs as a command


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, or 2 after a UserError."""
    options = argument_parser().parse_args(arguments)
    try:
        compare(options)
    except UserError as error:
        logger.error(str(error))
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    """Compare the groups of a study, write the files and print the results. Log to W&B if requested."""
    # Imported here because scipy and statsmodels take seconds to import and `--help` does not need them.
    from imdbcls.comparison.summary import chosen
    from imdbcls.comparison.views.files import write_files
    from imdbcls.comparison.views.paper_figures import paper_figures, require_matplotlib
    from imdbcls.comparison.views.rendered import render
    from imdbcls.comparison.views.terminal import STYLES, files_text, terminal_summary, terminal_text

    if options.figures:
        require_matplotlib()
    study = read(options.study)
    metric, margin = chosen(study, options.metric, options.margin)
    folder = options.output or default_folder(options.study, study)
    rendered = render(study, metric, margin, folder)
    comparison = rendered.comparison
    papers = paper_figures(rendered.figures) if options.figures else {}
    write_files(folder, comparison, rendered.drawings, rendered.page, papers)
    with entry.stdout_is_secondary():  # if stdout is closed, --wandb must still work
        columns = columns_of(sys.stdout)
        if options.full:
            text = f"{terminal_text(comparison, columns)}\n\n{files_text(folder)}"
        else:
            text = terminal_summary(comparison, folder, columns)
        write_out(text, STYLES)
        if options.wandb:
            from imdbcls.tracking.log_comparison import tracker_settings
            from imdbcls.tracking.publish import publish, urls_text

            settings = tracker_settings(study.groups[0].runs[0].config) | {"mode": options.wandb_mode}
            urls = publish(rendered, options.study if study.file is None else folder, settings)
            if urls:
                write_out(f"\n{urls_text(urls)}")


def read(path: Path) -> "Study":
    """Read the study folder or the file of predictions at `path`. Raise UserError if it cannot be compared."""
    from imdbcls.comparison.prediction_rows import FORMATS
    from imdbcls.comparison.predictions_file import read_predictions_file
    from imdbcls.comparison.study import read_study

    if os.path.isfile(path) or (path.suffix.lower() in FORMATS and not os.path.isdir(path)):
        return read_predictions_file(path)
    return read_study(path)


def default_folder(path: Path, study: "Study") -> Path:
    """Return the study folder, or `<stem>_comparison` next to a file of predictions."""
    return path if study.file is None else path.with_name(f"{path.stem}_comparison")


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imdbcls.compare",
        description="Compare the groups of a study, and test which differences are real. A group contains runs that "
        "differ only in seeds. In a file of predictions, the groups are the systems. The file has the columns system, "
        "id, label and prediction, and optionally seed, cluster and probability_<class> for each class.",
    )
    parser.add_argument(
        "study", type=Path, help="study folder, such as runs/heads, or a file of predictions (.csv, .tsv or .parquet)"
    )
    parser.add_argument(
        "--metric",
        choices=get_args(MetricName),
        help="the metric that decides ranks and verdicts (default: the metric of the study's plan; without a plan, the "
        "metric that selected the best epochs, if all runs recorded the same metric, else accuracy)",
    )
    parser.add_argument(
        "--margin",
        type=margin,
        help="equivalence margin: in points for accuracy, f1 and auroc, in the unit of the metric for brier and loss "
        "(default: 0.3 points for accuracy and f1; no equivalence test for the other metrics)",
    )
    parser.add_argument("--full", action="store_true", help="print all tables, verdicts and notes, not only a summary")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder to write to (default: the study folder, or <name>_comparison next to a file <name>.csv)",
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also write the figures as PDF and PNG, sized for a column of a paper (needs matplotlib)",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="also publish to Weights & Biases: the comparison as a run, a saved workspace and a report",
    )
    parser.add_argument(
        "--wandb-mode",
        choices=["auto", "online", "offline"],
        default="auto",
        help="auto (default): online if an API key is configured and the server answers, else log the run offline",
    )
    parser.add_argument("--report", action=Removed, nargs=0, help=argparse.SUPPRESS)
    return parser


class Removed(argparse.Action):
    """An option that no longer exists. The error names the option that replaces it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error("--report was removed. Use --wandb, which also saves the report and the workspace")


def margin(text: str) -> float:
    value = float(text)
    try:
        require_margin(value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def require_margin(value: float) -> None:
    """Raise UserError unless 0 < `value` < 100, the range of a margin."""
    if not 0 < value < 100:
        raise UserError(f"{value} is out of range. Set a margin above 0 and below 100, such as 0.3")


if __name__ == "__main__":
    command()
