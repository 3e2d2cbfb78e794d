"""Compare the groups of a study, or the systems in a file: `python -m imdbcls.compare runs/heads` or `predictions.csv`.

Reads the run folders of a study, or a file of predictions that any tool can write. Tests every pair of groups over
documents and seeds, and prints a summary or, with --full, all tables. Writes comparison.html, .json, .md, .tex, .csv
and figures. Uses the network only for --wandb and --report.
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
    from imdbcls.comparison.metrics import Metric
    from imdbcls.comparison.study import Study

logger = logging.getLogger("imdbcls.compare")  # `__name__` is `__main__` when this module runs as a command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0, or 2 after a UserError."""
    options = parse(arguments)
    try:
        compare(options)
    except UserError as error:
        logger.error(str(error))
        return 2
    return 0


def compare(options: argparse.Namespace) -> None:
    """Compare the groups of a study, write the files and print the results. Log to W&B if requested."""
    # Imported here because scipy and statsmodels take seconds to import and `--help` does not need them.
    from imdbcls.comparison.looks import with_earlier_looks
    from imdbcls.comparison.summary import compare_study
    from imdbcls.comparison.texts import texts_of
    from imdbcls.comparison.views.figures import figures_of
    from imdbcls.comparison.views.files import write_files
    from imdbcls.comparison.views.page import page_html
    from imdbcls.comparison.views.paper_figures import paper_figures, require_matplotlib
    from imdbcls.comparison.views.reading_list import reading_list
    from imdbcls.comparison.views.svg_figures import drawings_of
    from imdbcls.comparison.views.terminal import STYLES, files_text, terminal_summary, terminal_text

    if options.figures:
        require_matplotlib()
    study = read(options.study)
    metric, margin = chosen(study, options.metric, options.margin)
    if options.report and study.file is not None:
        raise UserError(f"--report needs a folder of training runs, but {options.study} is a file of predictions.")
    folder = options.output or default_folder(options.study, study)
    comparison = with_earlier_looks(compare_study(study, metric, margin), folder)
    figures = figures_of(comparison)
    drawings = drawings_of(figures)
    page = page_html(comparison, drawings, reading_list(study, comparison, texts_of(study)))
    write_files(folder, comparison, drawings, page, paper_figures(figures) if options.figures else {})
    with entry.stdout_is_secondary():  # if stdout is closed, --wandb and --report must still work
        columns = columns_of(sys.stdout)
        if options.full:
            text = f"{terminal_text(comparison, columns)}\n\n{files_text(folder)}"
        else:
            text = terminal_summary(comparison, folder, columns)
        write_out(text, STYLES)
        if options.wandb or options.report:
            from imdbcls.tracking.log_comparison import log_comparison, tracker_settings
            from imdbcls.tracking.wandb_report import create_report

            settings = tracker_settings(study.groups[0].runs[0].config)
            if options.wandb:
                place = options.study if study.file is None else folder
                log_comparison(comparison, drawings, page, place, **settings | {"mode": options.wandb_mode})
            if options.report:
                write_out(create_report(comparison, project=settings["project"], entity=settings["entity"]))


def read(path: Path) -> "Study":
    """Read the study folder or the file of predictions at `path`. Raise UserError if it cannot be compared."""
    from imdbcls.comparison.prediction_rows import FORMATS
    from imdbcls.comparison.predictions_file import read_predictions_file
    from imdbcls.comparison.study import read_study

    if os.path.isfile(path) or (path.suffix.lower() in FORMATS and not os.path.isdir(path)):
        return read_predictions_file(path)
    return read_study(path)


def chosen(study: "Study", metric: str | None, margin: float | None) -> "tuple[Metric, float | None]":
    """Return the metric and the margin of a comparison.

    Without a choice, they are those of the plan of the study. Without a plan, the metric is the one that selected the
    best epochs, and the margin is the default of the metric.
    """
    from imdbcls.comparison.metrics import METRICS

    plan = study.plan
    found = METRICS[metric or (study.recorded_metric if plan is None else plan.metric)]
    if plan is not None and margin is None and found.name == plan.metric:
        return found, plan.margin
    return found, margin_of(found, margin)


def default_folder(path: Path, study: "Study") -> Path:
    """Return the study folder, or `<stem>_comparison` next to a file of predictions."""
    return path if study.file is None else path.with_name(f"{path.stem}_comparison")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m imdbcls.compare",
        description="Test which groups of a study are more accurate. A group contains runs that differ only in seeds. "
        "In a file of predictions, the groups are the systems. The file has the columns system, id, label and "
        "prediction, and optionally seed, cluster and probability_<class> for each class.",
    )
    parser.add_argument(
        "study", type=Path, help="study folder, such as runs/heads, or a file of predictions (.csv, .tsv or .parquet)"
    )
    parser.add_argument(
        "--metric",
        choices=get_args(MetricName),
        help="the metric that decides ranks and verdicts (default: the metric that selected the best epoch of every "
        "run; accuracy if it is not recorded or differs between runs)",
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
        help="folder to write to (default: the study folder, or <file>_comparison next to a file of predictions)",
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also write the figures as PDF and PNG, sized for a column of a paper (needs matplotlib)",
    )
    parser.add_argument("--wandb", action="store_true", help="also log the tables, figures and page as a W&B run")
    parser.add_argument(
        "--wandb-mode",
        choices=["auto", "online", "offline"],
        default="auto",
        help="auto (default): online if an API key is configured and the server answers, else offline",
    )
    parser.add_argument(
        "--report", action="store_true", help="also save a W&B report and workspace (needs wandb-workspaces)"
    )
    return parser.parse_args(arguments)


def margin(text: str) -> float:
    value = float(text)
    try:
        require_margin(value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def require_margin(value: float) -> None:
    """Raise UserError if the margin is not between 0 and 100, both excluded."""
    if not 0 < value < 100:
        raise UserError(f"{value} is out of range. Set a margin above 0 and below 100, such as 0.3")


def margin_of(metric: "Metric", value: float | None) -> float | None:
    """Return `value / 100` for a percentage metric, else `value`; the metric's default margin if `value` is None."""
    if value is None:
        return metric.default_margin
    return value / 100 if metric.is_percentage else value


if __name__ == "__main__":
    entry.run(main)
