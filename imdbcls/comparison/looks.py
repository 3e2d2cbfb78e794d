"""Count how often a study without a plan was compared while it grew.

Each comparison with a new number of runs is a look.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imdbcls.comparison.results import Comparison
from imdbcls.errors import UserError
from imdbcls.printable import counted
from imdbcls.runs.untrusted import read_json

MAX_LOOKS = 100  # largest number of looks that are recorded


def with_earlier_looks(comparison: Comparison, folder: Path, num_unfinished: int = 0) -> Comparison:
    """Return the comparison with the numbers of runs at this look and at the earlier looks.

    The earlier looks are read from the folder's `comparison.json`. For a study without a plan, add a caution if
    runs are unfinished (`num_unfinished` is their number), and a note if there are several looks.
    """
    now = sum(len(group.seeds) for group in comparison.groups)
    looks = (*(each for each in recorded_looks(folder / "comparison.json") if each < now), now)[-MAX_LOOKS:]
    early = tuple(notes_on_unfinished(comparison, num_unfinished))
    return replace(
        comparison,
        looks=looks,
        notes=(*early, *comparison.notes, *notes_on_looks(comparison, looks)),
        cautions=(*early, *comparison.cautions),
    )


def notes_on_unfinished(comparison: Comparison, num_unfinished: int) -> Iterator[str]:
    if num_unfinished and comparison.plan is None and comparison.pairs:
        runs, verb = counted(num_unfinished, "run"), "is" if num_unfinished == 1 else "are"
        yield (
            f"{runs} {verb} not finished, so this is an early look at the study. Repeated looks at a growing study "
            'make a false "better" more likely. Compare the study only when all runs are finished, or plan the looks '
            "with python -m imdbcls.study."
        )


def recorded_looks(path: Path) -> list[int]:
    """Return the numbers of runs at earlier looks, ascending. Return an empty list if the file has no valid looks."""
    try:
        looks = read_json(path).get("looks")
    except UserError:
        return []
    is_valid = isinstance(looks, list) and all(isinstance(each, int) and each > 0 for each in looks)
    return sorted(set(looks)) if looks and is_valid else []


def notes_on_looks(comparison: Comparison, looks: tuple[int, ...]) -> Iterator[str]:
    if len(looks) > 1 and comparison.plan is None and comparison.pairs:
        yield (
            f"This growing study was compared {len(looks)} times (with {', '.join(map(str, looks))} runs). "
            'Each comparison can find a false "better", and the p-values are not corrected for the earlier '
            "comparisons. To compare a study while it grows, plan it with python -m imdbcls.study."
        )
