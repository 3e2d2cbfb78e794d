"""Write the files of a tuning study: tuning.json, tuning.csv and tuning.html."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from imdbcls.comparison.tuning_results import GroupResult, Lead, TuningResults
from imdbcls.comparison.views.csv_table import written
from imdbcls.comparison.views.files import write_together
from imdbcls.comparison.views.tuning_page import tuning_html
from imdbcls.errors import UserError
from imdbcls.printable import csv_cell
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import FORMAT_VERSION, TUNING

COLUMNS = ("study", "group", "trial", "state", "metric", "value", "epochs", "seconds", "run", "only_class")


def write_tuning_files(folder: Path, results: TuningResults) -> None:
    """Write all files. If a file cannot be written, leave all files unchanged and raise UserError."""
    texts = {
        "tuning.json": json_text(tuning_document(results), indent=2) + "\n",
        "tuning.csv": tuning_csv(results),
        "tuning.html": tuning_html(results),
    }
    try:
        write_together({folder / name: text.encode() for name, text in texts.items()})
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror}). The trials are kept. Free disk space or "
            "make the folder writable, and run the same command again."
        ) from error


def tuning_document(results: TuningResults) -> dict[str, Any]:
    """Return the content of tuning.json. Percentages are fractions of one, as in result.json."""
    return {
        FORMAT_VERSION: TUNING,
        "study": results.study,
        "metric": results.metric.name,
        "higher_is_better": results.metric.higher_is_better,
        "settings": dict(results.settings),
        "most_common_class": None if results.most_common_class is None else asdict(results.most_common_class),
        "groups": [group_document(group) for group in results.groups],
        "leads_by_trials": [lead_document(lead) for lead in results.leads_by_trials],
        "leads_by_hours": [lead_document(lead) for lead in results.leads_by_hours],
    }


def group_document(group: GroupResult) -> dict[str, Any]:
    cost = group.seconds_per_trial / 3600
    return {
        "name": group.name,
        "overrides": list(group.overrides),
        **{f"num_{state}": group.count(state) for state in ("done", "pruned", "failed", "open")},
        "hours": group.seconds / 3600,
        "best": None if group.best is None else asdict(group.best),
        "expected": [
            {"trials": n, "hours": n * cost, "value": each.value, "std": each.std}
            for n, each in enumerate(group.expected, start=1)
        ],
        "trials": [asdict(trial) for trial in group.trials],
    }


def lead_document(lead: Lead) -> dict[str, Any]:
    return {"group": lead.group, "from": lead.start, "to": lead.end}


def tuning_csv(results: TuningResults) -> str:
    """Return one row per trial, with a column for each key of the search space."""
    keys = list(results.settings["space"])
    rows = [
        [
            *(csv_cell(results.study), csv_cell(group.name), trial.number, trial.state, results.metric.name),
            *(trial.value, trial.epochs, trial.seconds, csv_cell(trial.run)),
            None if trial.only_class is None else csv_cell(trial.only_class),
            *(trial.values.get(key) for key in keys),
        ]
        for group in results.groups
        for trial in group.trials
    ]
    return written([*COLUMNS, *keys], rows)
