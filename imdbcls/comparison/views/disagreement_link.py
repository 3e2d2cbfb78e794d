"""Point from the comparison page to the pages that explain, word by word, where two runs disagree."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import Study

PAGE = re.compile(r"disagreement-[A-Za-z0-9_.-]+\.html")  # other names in an untrusted folder are not linked


@dataclass(frozen=True)
class DisagreementLink:
    """The command that writes a page on a disagreement, and the existing pages next to the comparison page."""

    command: str
    pages: tuple[str, ...]


def disagreement_link(study: Study, comparison: Comparison, folder: Path) -> DisagreementLink | None:
    """Return the command for the first run of each of the two best groups, and the pages in the output folder.

    Return None if there are fewer than two groups, or no run folders.
    """
    if study.folder is None or len(comparison.groups) < 2:
        return None
    runs = " ".join(shlex.quote(str(study.folder / group.runs[0].name)) for group in comparison.groups[:2])
    pages = sorted(path.name for path in folder.glob("disagreement-*.html") if PAGE.fullmatch(path.name))
    return DisagreementLink(f"python -m imdbcls.explain --disagreement {runs}", tuple(pages))
