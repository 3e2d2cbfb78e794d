"""Select the W&B runs of a study, and derive their colours, the pinned columns and the swept config keys."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imdbcls.comparison.naming import choices_of, flatten
from imdbcls.comparison.results import Comparison, RunSummary
from imdbcls.comparison.study import Study
from imdbcls.tracking import environment

GROUP_LABEL = "group_label"  # the key of a run's W&B config by which all panels are grouped
JOB_TYPES = ("train", "comparison")
CHOICE = re.compile(r"(head|backbone|data)\.name")  # config keys that name a choice; `choices_of` omits them
MAX_SWEPT = 12  # config keys with an axis in the parallel coordinates plot, not counting `seed`


@dataclass(frozen=True)
class RunSelection:
    """The W&B runs of a study and of its comparison."""

    filters: str  # selects these runs, in the filter language of wandb-workspaces
    ids: Mapping[str, Sequence[str]]  # group name to the W&B ids of its training runs, best group first
    comparison_id: str
    columns: Sequence[str]  # the first columns of the table of runs

    @property
    def colours(self) -> dict[str, str]:
        """Map the id of each training run to the colour of its group in the comparison's figures."""
        palette = group_colours()
        return {run: palette[i % len(palette)] for i, runs in enumerate(self.ids.values()) for run in runs}


def select_runs(study: Study, comparison: Comparison, folder: Path, comparison_id: str) -> RunSelection:
    """Return the selection of a study's W&B runs and its comparison run."""
    return RunSelection(
        filters=runs_of(group_names(study)),
        ids={group.name: [wandb_id(folder, run) for run in group.runs] for group in comparison.groups},
        comparison_id=comparison_id,
        columns=pinned_columns(comparison),
    )


def runs_of(studies: Iterable[str]) -> str:
    """Return a filter that selects the training runs and the comparison run of each of these studies.

    The W&B group of a run is the name of its study.
    """
    names = sorted(set(studies))
    group = f"= {literal(names[0])}" if len(names) == 1 else f"in [{', '.join(map(literal, names))}]"
    return f"Group {group} and JobType in [{', '.join(map(literal, JOB_TYPES))}]"


def literal(text: str) -> str:
    r"""Return a string literal of wandb-workspaces' filter language, with every special character as `\U...`.

    wandb-workspaces replaces `=`, `<` and `>` even inside string literals, so these characters must be escaped.
    """
    escaped = (c if c.isascii() and (c.isalnum() or c in "_-.") else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(escaped)}"'


def group_names(study: Study) -> set[str]:
    """Return the W&B groups of a study's runs and of its comparison. The groups differ if the study was renamed."""
    recorded = (run.result.get("study") for group in study.groups for run in group.runs)
    return {study.name, *(name for name in recorded if isinstance(name, str) and name)}


def wandb_id(folder: Path, run: RunSummary) -> str:
    """Return the W&B id of a run, from its recorded W&B URL or, if there is none, from the name of the run."""
    found = ""
    with contextlib.suppress(ValueError):  # the URL may come from an untrusted folder
        found = urlsplit(run.url or "").path.partition("/runs/")[2].strip("/")
    return found or environment.run_id(folder, run.name)


def group_colours() -> list[str]:
    """Return the colours of the groups in the comparison's figures (light mode), as `#rrggbb`."""
    style = files("imdbcls.comparison.views").joinpath("figures.css").read_text(encoding="utf-8")
    light = style.split("@media", 1)[0]
    return re.findall(r"--s\d: (#[0-9a-f]{6})", light)


def pinned_columns(comparison: Comparison) -> list[str]:
    """Return the first columns of the table of runs: group, seed, and the validation and test metric."""
    name = comparison.metric.name
    return [f"config:{GROUP_LABEL}.value", "config:seed.value", f"summary:val/{name}", f"summary:test/{name}"]


def swept_keys(study: Study) -> dict[str, bool]:
    """Map each dotted config key that has several values in the study to a flag.

    The flag says whether the key has a logarithmic axis in the parallel coordinates plot. If several keys have the
    same values in every group, such as `lr` and `optimizer.lr`, only the shortest key is returned. A key that some
    groups lack, such as `head.bidirectional`, is returned if its value differs between the groups that have it. At most
    `MAX_SWEPT` keys are returned, not counting `seed`.
    """
    runs = [group.runs[0] for group in study.groups]
    chosen = [
        {key: value for key, value in flatten(run.config) if key in choices or is_choice(key, run.config)}
        for run, choices in zip(runs, choices_of(runs), strict=True)
    ]
    found: dict[tuple[str, ...], str] = {}
    for key in sorted({key for choices in chosen for key in choices}, key=lambda key: (key.count("."), len(key), key)):
        values = [choices[key] for choices in chosen if key in choices]
        if len(set(map(str, values))) > 1:
            found.setdefault(tuple(str(choices.get(key)) for choices in chosen), key)
    keys = {key: is_logarithmic(choices.get(key) for choices in chosen) for key in list(found.values())[:MAX_SWEPT]}
    num_seeds = len({seed for group in study.groups for seed in group.seeds})
    return keys | ({"seed": False} if num_seeds > 1 else {})


def is_choice(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether a config key identifies the choice of its section.

    This key is `name` in the sections `head`, `backbone` and `data`, and `_target_` in sections without `name`.
    """
    section, _, last = key.rpartition(".")
    if last != "_target_" or "." in section:
        return CHOICE.fullmatch(key) is not None
    values = config.get(section)
    return not (isinstance(values, dict) and "name" in values)


def is_logarithmic(values: Iterable[Any]) -> bool:
    """Return whether all values are positive numbers, the largest at least ten times the smallest. Ignore None."""
    numbers = [value for value in values if value is not None]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in numbers):
        return False
    return max(numbers) >= 10 * min(numbers)
