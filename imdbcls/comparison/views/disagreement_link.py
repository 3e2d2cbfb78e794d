"""Point from the comparison page to the pages that explain, word by word, where two runs disagree."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from imdbcls.comparison.study import Study

PAGE = re.compile(r"disagreement-[A-Za-z0-9_.-]+\.html")  # other names in an untrusted folder are not linked


@dataclass(frozen=True)
class DisagreementLink:
    """The command that writes such a page, and the pages that are next to the comparison page."""

    command: str
    pages: tuple[str, ...]


def disagreement_link(study: Study, folder: Path) -> DisagreementLink | None:
    """Return the command for the first runs of the two best groups, and the pages in the output folder.

    Return None if there are no two groups, or no run folders.
    """
    if study.file is not None or len(study.groups) < 2:
        return None
    names = [group.runs[0].name for group in study.groups[:2]]
    parent = folder if all((folder / name).is_dir() for name in names) else Path("runs") / study.name
    runs = " ".join(shlex.quote(str(parent / name)) for name in names)
    pages = sorted(path.name for path in folder.glob("disagreement-*.html") if PAGE.fullmatch(path.name))
    return DisagreementLink(f"python -m imdbcls.explain --disagreement {runs}", tuple(pages))
