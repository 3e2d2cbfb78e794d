"""Point from the comparison page to the pages that explain, word by word, where two runs disagree."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from imdbcls.comparison.results import Comparison, GroupSummary
from imdbcls.comparison.study import Study
from imdbcls.runtime.model_files import weights_of_run

PAGE = re.compile(r"disagreement-[A-Za-z0-9_.-]+\.html")  # other names in an untrusted folder are not linked


@dataclass(frozen=True)
class DisagreementLink:
    """The command that writes a page on a disagreement, and the existing pages next to the comparison page.

    `command` is None if `explain` cannot explain the runs.
    """

    command: str | None
    pages: tuple[str, ...]


def disagreement_link(study: Study, comparison: Comparison, folder: Path) -> DisagreementLink | None:
    """Return the command for a run of each of the two best groups, and the pages in the output folder.

    Return None if there is neither a command nor a page.
    """
    if study.folder is None or len(comparison.groups) < 2:
        return None
    of_pairs = {group.name for group in study.groups if group.reads_pairs}
    groups = [group for group in comparison.groups[:2] if group.name not in of_pairs]
    runs = [first_with_weights(study.folder, group) for group in groups]
    given = [shlex.quote(str(run)) for run in runs if run is not None]
    command = f"python -m imdbcls.explain --disagreement {' '.join(given)}" if len(given) == 2 else None
    pages = sorted(path.name for path in folder.glob("disagreement-*.html") if PAGE.fullmatch(path.name))
    return None if command is None and not pages else DisagreementLink(command, tuple(pages))


def first_with_weights(study: Path, group: GroupSummary) -> Path | None:
    """Return the folder of a group's first run that has its best weights, or None if no run has them."""
    return next((study / run.name for run in group.runs if weights_of_run(study / run.name).is_file()), None)
