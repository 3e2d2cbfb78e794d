"""Count how often a study without a plan was compared while it grew.

Each comparison with a new number of runs is a look.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imdbcls.comparison.results import Comparison
from imdbcls.errors import UserError
from imdbcls.runs.untrusted import read_json

MAX_LOOKS = 100  # largest number of looks that are recorded


def with_earlier_looks(comparison: Comparison, folder: Path) -> Comparison:
    """Return the comparison with its looks: the earlier ones, from the folder's `comparison.json`, and this one.

    A look is recorded as the number of runs that were compared. If the study has no plan and several looks, add a note.
    """
    now = sum(len(group.seeds) for group in comparison.groups)
    looks = (*(each for each in recorded_looks(folder / "comparison.json") if each < now), now)[-MAX_LOOKS:]
    return replace(comparison, looks=looks, notes=(*comparison.notes, *notes_on_looks(comparison, looks)))


def recorded_looks(path: Path) -> list[int]:
    """Return the numbers of runs at earlier looks, ascending (empty if the file has none or is damaged)."""
    try:
        looks = read_json(path).get("looks")
    except UserError:
        return []
    is_valid = isinstance(looks, list) and all(isinstance(each, int) and each > 0 for each in looks)
    return sorted(set(looks)) if looks and is_valid else []


def notes_on_looks(comparison: Comparison, looks: tuple[int, ...]) -> Iterator[str]:
    if len(looks) > 1 and comparison.plan is None and comparison.pairs:
        yield (
            f"This is look {len(looks)} at a growing study ({', '.join(map(str, looks))} runs). Each look can find a "
            'false "better", and the p-values are not corrected for earlier looks. To look while a study grows, plan '
            "it with python -m imdbcls.study."
        )
