"""Log a comparison as one W&B run of type `comparison`: its tables, its figures and the whole page."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.tracking import environment
from imdbcls.tracking.session import RunIdentity, Session


def tracker_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default W&B settings, with the project and entity of the run that has this configuration."""
    shipped = yaml.safe_load(files("imdbcls.conf").joinpath("tracker", "wandb.yaml").read_text(encoding="utf-8"))
    settings = {key: value for key, value in shipped.items() if not key.startswith("_")}
    tracker = config.get("tracker")
    for key in ("project", "entity"):
        if isinstance(tracker, dict) and isinstance(tracker.get(key), str):
            settings[key] = tracker[key]
    return environment.resolved(settings)


def log_comparison(
    comparison: Comparison, figures: Mapping[str, str], html: str, folder: Path, **settings: Any
) -> None:
    """Log every table, every figure (SVG by name) and the page; W&B's files go to `folder/wandb`.

    `settings` are those of `conf/tracker/wandb.yaml`: the mode is chosen and the waits are bounded as in training.
    A study that is logged again replaces its earlier comparison. Raises UserError for mode online without a key.
    """
    study = comparison.study
    identity = RunIdentity(study, f"comparison-{study}", "comparison", ("comparison",))
    session = Session(identity, {"study": study}, folder, resume=False, **settings)
    session.open()
    try:
        if session.run is not None:
            with session.guarded("did not take the comparison"):
                session.log_views(views_of(tables_of(comparison), figures, html), patience=4)  # a dozen tables, not one
    finally:
        session.close(exit_code=0)


def views_of(tables: list[Table], figures: Mapping[str, str], html: str) -> dict[str, Any]:
    """Return W&B objects by their names in the run, without the narrow figures for phones."""
    import wandb

    views: dict[str, Any] = {
        f"comparison/tables/{table.key}": wandb.Table(columns=unique(table.header), data=table.rows) for table in tables
    }
    for name, figure in figures.items():
        if not name.endswith("_narrow"):
            views[f"comparison/figures/{name}"] = wandb.Html(figure, inject=False)
    return {**views, "comparison/page": wandb.Html(html, inject=False)}


def unique(header: list[str]) -> list[str | int]:
    """Make column names unique, as W&B tables require: prefix a repeated one with the column before it."""
    names: list[str | int] = []
    for name in header:
        label = name or "rank"
        names.append(f"{names[-1]} {label}" if header.count(name) > 1 else label)
    return names
