"""Log a comparison as a W&B run of type `comparison`: its tables, its figures and the HTML page."""

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
    """Return the default W&B settings, with the project and entity from a run's config.

    W&B's environment variables replace null; see `environment.resolved`.
    """
    conf = files("imdbcls.conf")
    shared = yaml.safe_load(conf.joinpath("config.yaml").read_text(encoding="utf-8"))["tracker"]
    own = yaml.safe_load(conf.joinpath("tracker", "wandb.yaml").read_text(encoding="utf-8"))["wandb"]
    settings = {**shared, **{key: value for key, value in own.items() if not key.startswith("_")}}
    tracker = config.get("tracker")
    for key in ("project", "entity"):
        if isinstance(tracker, dict) and isinstance(tracker.get(key), str):
            settings[key] = tracker[key]
    return environment.resolved(settings)


def log_comparison(
    comparison: Comparison, figures: Mapping[str, str], html: str, folder: Path, **settings: Any
) -> None:
    """Log all tables, all figures (SVG by name) and the HTML page. W&B's local files go to `folder/wandb`.

    `settings` are the shared keys of `tracker` and those of `tracker.wandb`, with the same meaning as in training.
    Logging a study again replaces its earlier comparison. Raises UserError if the mode is `online` and no valid key is
    configured.
    """
    study = comparison.study
    identity = RunIdentity(study, f"comparison-{study}", "comparison", ("comparison",))
    session = Session(identity, {"study": study}, folder, resume=False, **settings)
    session.open()
    try:
        if session.run is not None:
            with session.guarded("could not log the comparison"):
                # Allow more time than for a single table, because there are about a dozen tables.
                session.log_views(views_of(tables_of(comparison), figures, html), patience=4)
    finally:
        session.close(exit_code=0)


def views_of(tables: list[Table], figures: Mapping[str, str], html: str) -> dict[str, Any]:
    """Return the W&B objects by name. Omit the narrow versions of the figures, which are for phones."""
    import wandb

    views: dict[str, Any] = {
        f"comparison/tables/{table.key}": wandb.Table(columns=unique(table.header), data=table.rows) for table in tables
    }
    for name, figure in figures.items():
        if not name.endswith("_narrow"):
            views[f"comparison/figures/{name}"] = wandb.Html(figure, inject=False)
    return {**views, "comparison/page": wandb.Html(html, inject=False)}


def unique(header: list[str]) -> list[str | int]:
    """Make column names unique, as W&B tables require. An empty name becomes `rank`.

    A name that occurs more than once gets the preceding column's name as a prefix, each time that it occurs.
    """
    names: list[str | int] = []
    for name in header:
        label = name or "rank"
        names.append(f"{names[-1]} {label}" if header.count(name) > 1 else label)
    return names
