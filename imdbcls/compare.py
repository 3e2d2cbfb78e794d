"""Which group of runs is better, and is it real? `python -m imdbcls.compare runs/heads`

Reads the run folders of a study, tests every pair of groups over documents and seeds, prints a table per question, and
writes comparison.html, .json, .md and .csv. Needs no server and no network.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import take_over

    take_over()

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.console import say, warn, write_out

if TYPE_CHECKING:  # imported where they are used: scipy and statsmodels take seconds, and `--help` needs neither
    from imdbcls.comparison.study import Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 where nothing can be compared."""
    choices = parse(arguments)
    try:
        compare(choices)
    except UserError as error:
        say(f"imdbcls: {error}")
        return 2
    return 0


def compare(choices: argparse.Namespace) -> None:
    """Compare the study, write the files, print the tables and, where asked, log them."""
    from imdbcls.comparison.study import read_study
    from imdbcls.comparison.summary import compare_study
    from imdbcls.comparison.views.figures import figures_of
    from imdbcls.comparison.views.page import page_html
    from imdbcls.comparison.views.terminal import terminal_text

    study = read_study(choices.study)
    texts = load_texts(study)
    comparison, reading = compare_study(
        study, choices.margin / 100, lambda ids: {i: texts[i] for i in ids if i in texts}
    )
    figures = figures_of(comparison)
    page = page_html(comparison, figures, reading)
    written = write_files(choices.output or choices.study, comparison, figures, page)
    with entry.stdout_is_secondary():  # --wandb and --report run even if nobody reads the tables
        write_out(f"{terminal_text(comparison)}\n\n{written}")
        if choices.wandb or choices.report:
            log(choices, study, comparison, figures, page)


def log(
    choices: argparse.Namespace, study: "Study", comparison: dict[str, Any], figures: dict[str, str], page: str
) -> None:
    """Send the comparison to W&B as a run, a report, or both."""
    from imdbcls.comparison.views.tables import tables_of
    from imdbcls.tracking.log_comparison import log_comparison, settings_beside
    from imdbcls.tracking.wandb_report import create_report

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


def load_texts(study: "Study") -> dict[str, str]:
    """The test documents' texts by id, where the data can still be read here; else none, and a line says why."""
    from imdbcls.comparison.run_files import plain
    from imdbcls.data.texts import read_texts

    run = study.groups[0].runs[0]
    try:
        return read_texts(run.config, str(run.result.get("split_hash")))
    except Exception as error:  # a stranger's configuration can fail in any way, and nothing else depends on texts
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warn(f"the page shows no texts of documents: {kind}{plain(str(error), 400)}")
        return {}


def write_files(folder: Path, comparison: dict[str, Any], figures: dict[str, str], page: str) -> str:
    """Write the comparison's files and print their paths; raise UserError if one cannot be written."""
    from imdbcls.comparison.views.markdown import csv_text, json_text, markdown_text
    from imdbcls.comparison.views.page import standalone

    drawings = folder / "comparison_figures"
    texts = {
        folder / "comparison.json": json_text(comparison),
        folder / "comparison.md": markdown_text(comparison),
        folder / "comparison.csv": csv_text(comparison),
        folder / "comparison.html": page,
        **{drawings / f"{name}.svg": standalone(figure) for name, figure in figures.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if drawings.is_symlink():  # a stranger's study could point it anywhere
            drawings.unlink()
        drawings.mkdir(exist_ok=True)
        write_together(texts)
    except OSError as error:
        place = error.filename or folder
        raise UserError(
            f"{place} cannot be written ({error.strerror}); no file of the comparison was changed. Make room for it, "
            "or give another folder with --output."
        ) from error
    return f"Written: {folder / 'comparison.html'} (open it in a browser); .json, .md, .csv and figures beside it."


def write_together(texts: Mapping[Path, str]) -> None:
    """Write files so that either all are new or, where one cannot be written (OSError), all are as before."""
    from imdbcls.runs.files import replacing, sync

    with ExitStack() as stack:
        for path, text in texts.items():
            temporary = stack.enter_context(replacing(path))
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)  # a full disk may show only now


if __name__ == "__main__":
    entry.run(main)
