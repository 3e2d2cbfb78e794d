"""Fix the plan of a study before its first run, and refuse another plan later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imdbcls.config.grid import GridGroup
from imdbcls.config.study_settings import StudySettings
from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder, write_holder
from imdbcls.runs.plan import FILE, Plan, PlannedGroup, has_plan, read_plan, write_plan
from imdbcls.runtime.locks import file_lock

MIN_CHANCE = 0.1  # with `futility`, a group with a smaller chance of a verdict is stopped


def make_plan(groups: Sequence[GridGroup], settings: StudySettings) -> Plan:
    """Return the plan of a study with these groups and settings."""
    from imdbcls.comparison.metrics import METRICS  # imported here because it imports numpy and scipy

    metric, margin = METRICS[groups[0].config.metric], settings.margin
    if margin is None:
        margin = metric.default_margin
    elif metric.is_percentage:
        margin /= 100
    return Plan(
        groups=tuple(
            PlannedGroup(name=each.name, group_hash=each.group_hash, overrides=each.overrides) for each in groups
        ),
        seeds=settings.seeds.planned,
        first_look=settings.seeds.first,
        metric=metric.name,
        margin=margin,
        futility=MIN_CHANCE if settings.futility else None,
    )


@contextmanager
def locked(study: Path) -> Iterator[None]:
    """Create the folder of a study if necessary, and lock it: two commands must not train the same runs.

    Raise UserError if another command holds the lock, or if the folder cannot be written.
    """
    from filelock import Timeout

    path = study / ".lock"
    try:
        study.mkdir(parents=True, exist_ok=True)
        lock = file_lock(path, on_acquired=write_holder).acquire(blocking=False)
    except Timeout as error:
        holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
        raise UserError(f"The study {study} is in use by {holder}. Wait for that process or stop it.") from error
    except OSError as error:
        raise UserError(
            f"{study} cannot be written or locked ({error.strerror}: {error.filename or path}). Choose another "
            "runs_dir."
        ) from error
    with lock:
        yield


def fix_plan(study: Path, wanted: Plan) -> Plan:
    """Return the plan of a study. If the study has none, write and return `wanted`.

    Raise UserError if the study has another plan, or if it has no plan and already has finished runs of these groups.
    """
    fixed = known_plan(study, wanted)
    if fixed is not None:
        return fixed
    finished = names_of_finished(study, {group.group_hash: group.name for group in wanted.groups})
    if finished:
        raise UserError(
            f"{study} has no {FILE}, but it has finished runs of {', '.join(finished)}. A plan must be fixed before "
            "the first look at their scores: choose another study=..., which trains new runs."
        )
    write_plan(study, wanted)
    return wanted


def known_plan(study: Path, wanted: Plan) -> Plan | None:
    """Return the plan of a study, or None if there is none. Raise UserError if the plan is not the wanted plan."""
    if not has_plan(study):
        return None
    fixed = read_plan(study)
    difference = fixed.difference(wanted)
    if difference is not None:
        raise UserError(
            f"{study / FILE} fixes another plan; this command differs: {difference}. A plan cannot be "
            "changed. Repeat the first command, or choose another study=..."
        )
    return fixed


def names_of_finished(study: Path, names: dict[str, str]) -> list[str]:
    """Return the names of the groups that have a finished run in a study. `names` maps each `group_hash` to a name."""
    results = [RunFolder(path.parent).finished() for path in sorted(study.glob("*/result.json"))]
    found = {str(result["group_hash"]) for result in results if result is not None}
    return [name for group_hash, name in names.items() if group_hash in found]
