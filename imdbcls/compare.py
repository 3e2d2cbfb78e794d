"""Which group of runs is better, and is it real? `python -m imdbcls.compare runs/heads`

Reads the run folders of a study, tests every pair of groups over documents and seeds, prints a table per question, and
writes comparison.html, .json, .md and .csv. Needs no server and no network.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from imdbcls.comparison.export import csv_text, json_text, markdown_text, write_file
from imdbcls.comparison.figures import figures_of
from imdbcls.comparison.groups import read_study
from imdbcls.comparison.page import page_html, standalone
from imdbcls.comparison.report import compare_study
from imdbcls.comparison.run_files import BadRun, read_config
from imdbcls.comparison.tables import tables_of
from imdbcls.comparison.terminal import terminal_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where nothing can be compared."""
    choices = parse(arguments)
    try:
        study = read_study(choices.study)
    except BadRun as problem:
        print(f"compare: {problem}", file=sys.stderr)
        return 2

    texts: dict[str, str] = {}
    try:
        texts = load_texts(study.groups[0].runs[0].folder)
    except Exception as problem:
        print(f"compare: the page shows no review texts ({type(problem).__name__}: {problem})", file=sys.stderr)
    comparison, reading = compare_study(
        study, choices.margin / 100, lambda ids: {i: texts[i] for i in ids if i in texts}
    )
    figures = figures_of(comparison)
    page = page_html(comparison, figures, reading)

    print(terminal_text(comparison))
    output = choices.output or choices.study
    try:
        write_file(output / "comparison.json", json_text(comparison))
        write_file(output / "comparison.md", markdown_text(comparison))
        write_file(output / "comparison.csv", csv_text(comparison))
        write_file(output / "comparison.html", page)
        if (output / "comparison_figures").is_symlink():  # a stranger's study could point it anywhere
            (output / "comparison_figures").unlink()
        for name, figure in figures.items():
            write_file(output / "comparison_figures" / f"{name}.svg", standalone(figure))
    except OSError as problem:
        print(f"compare: {output} cannot be written ({problem.strerror}); give another with --output", file=sys.stderr)
        return 2
    print(f"\nWritten: {output / 'comparison.html'} (open it in a browser); .json, .md, .csv and figures beside it.")

    if choices.wandb:
        from imdbcls.tracking_comparison import log_comparison

        log_comparison(study.name, choices.study, tables_of(comparison), figures, page, choices.wandb_mode)
    if choices.report:
        from imdbcls.tracking_comparison import create_report

        print(create_report(study.name, comparison["headline"], tables_of(comparison)))
    return 0


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


def load_texts(run_folder: Path) -> dict[str, str]:
    """The test split's documents by id, from the data that the run's configuration names."""
    from imdbcls.data import read_texts

    return read_texts(read_config(run_folder / "config.yaml"))


if __name__ == "__main__":
    sys.exit(main())
