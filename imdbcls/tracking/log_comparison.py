"""Log a comparison as a W&B run with the job type `comparison`: its tables, its figures and the HTML page."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.page import matrices_html
from imdbcls.comparison.views.rendered import Rendered
from imdbcls.comparison.views.svg import standalone
from imdbcls.comparison.views.tables import tables_of
from imdbcls.comparison.views.wording import headline
from imdbcls.runtime.waiting import within
from imdbcls.tracking import environment
from imdbcls.tracking.panels import FIGURE
from imdbcls.tracking.runsets import GROUP_LABEL
from imdbcls.tracking.session import RunIdentity, Session

SESSION_KEYS = ("mode", "project", "entity", "tags", "notes", "connect_seconds", "finish_seconds")
# HTML that precedes an SVG figure and fits the figure into a panel of any size.
FIT = "<!doctype html><style>body{margin:0}body>svg{display:block;width:100vw;max-height:100vh}</style>"
VIEW_SECONDS = 10.0  # time limit for logging one table or figure


def tracker_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default W&B settings, with the project and entity from a run's config.

    W&B's environment variables replace null, as `environment.resolved` describes.
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


def comparison_session(study: str, folder: Path, settings: Mapping[str, Any], hint: str | None = None) -> Session:
    """Return a session, not yet open, for the W&B run of a study's comparison.

    W&B's local files go to `folder/wandb`. `settings` are the shared keys of `tracker` and the keys of `tracker.wandb`,
    with the same meaning as in training. The new run replaces the W&B run of an earlier comparison of this study. If
    the comparison is logged offline, a message says so and ends with `hint`.
    """
    identity = RunIdentity(study, f"comparison-{study}", "comparison", ("comparison",))
    config = {"study": study, GROUP_LABEL: "comparison"}
    used = {key: settings[key] for key in SESSION_KEYS if key in settings}
    return Session(identity, config, folder, resume=False, offline_hint=hint, **used)


def log_views(run: Any, rendered: Rendered) -> None:
    """Log the verdict, all tables, all figures and the HTML page. Raise TimeoutError if W&B stops responding."""
    comparison = rendered.comparison
    run.summary.update({"comparison/verdict": headline(comparison), "comparison/metric": comparison.metric.key})
    for name, view in views_of(rendered).items():
        within(VIEW_SECONDS, lambda entry={name: view}: run.log(entry, commit=False))  # type: ignore[misc]
    within(VIEW_SECONDS, lambda: run.log({}, commit=True))


def views_of(rendered: Rendered) -> dict[str, Any]:
    """Return the tables, the figures and the HTML page as W&B objects, keyed by their names in the W&B run."""
    import wandb

    views: dict[str, Any] = {
        f"comparison/tables/{table.key}": wandb.Table(columns=unique(table.header), data=table.rows)
        for table in tables_of(rendered.comparison)
    }
    for name, figure in figures_of_run(rendered.comparison, rendered.drawings).items():
        views[FIGURE.format(name)] = wandb.Html(figure, inject=False)
    return {**views, "comparison/page": wandb.Html(rendered.page, inject=False)}


def figures_of_run(comparison: Comparison, drawings: Mapping[str, str]) -> dict[str, str]:
    """Return the figures as HTML, keyed by name, without the narrow versions for phones."""
    figures = {
        name: f"{FIT}{standalone(drawing)}" for name, drawing in drawings.items() if not name.endswith("_narrow")
    }
    matrices = matrices_html(comparison)
    return figures if matrices is None else figures | {"confusion_matrices": matrices}


def unique(header: list[str]) -> list[str | int]:
    """Make column names unique, as W&B tables require. An empty name becomes `rank`.

    If a name occurs more than once, each occurrence gets the preceding column's name as a prefix.
    """
    names: list[str | int] = []
    for name in header:
        label = name or "rank"
        names.append(f"{names[-1]} {label}" if names and header.count(name) > 1 else label)
    return names
