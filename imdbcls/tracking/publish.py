"""Publish a comparison to W&B: the comparison run, the names of the groups, a saved workspace and a report."""

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import chosen
from imdbcls.comparison.views.files import write_files
from imdbcls.comparison.views.rendered import Rendered, render
from imdbcls.comparison.views.wording import headline
from imdbcls.runtime.preloading import preload
from imdbcls.runtime.text_table import joined
from imdbcls.runtime.waiting import within
from imdbcls.tracking.environment import current_mode
from imdbcls.tracking.log_comparison import comparison_session, figures_of_run, log_views
from imdbcls.tracking.panels import PanelSection, sections_of
from imdbcls.tracking.reasons import first_line
from imdbcls.tracking.relabel import relabel
from imdbcls.tracking.report import save_report
from imdbcls.tracking.runsets import select_runs, swept_keys
from imdbcls.tracking.saved_views import Place
from imdbcls.tracking.workspace import save_workspace

logger = logging.getLogger(__name__)

# The steps import these modules, which takes seconds on a busy machine.
CLIENTS = ("wandb.apis.public", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2")
STEP_SECONDS = 10.0  # time limit for each step of publishing, except logging the comparison
MAX_ALERT_TITLE = 63  # characters


@dataclass(frozen=True)
class Alert:
    """A message that W&B sends to the user by e-mail or Slack, as configured in the user's W&B settings."""

    title: str
    text: str
    level: Literal["INFO", "WARN", "ERROR"]


def publish(
    rendered: Rendered, folder: Path, settings: Mapping[str, Any], alert: Alert | None = None
) -> dict[str, str]:
    """Publish a comparison. Return the URLs of the comparison run, the workspace and the report, keyed by name.

    W&B's local files go to `folder/wandb`. `settings` are the shared keys of `tracker` and the keys of `tracker.wandb`.
    Without a server, the comparison run is logged offline, and no URL is returned. If the compared results come from a
    predictions file instead of runs, no workspace and no report are saved. If W&B fails or stops responding, a single
    warning is logged.

    Raise UserError if the mode is `online` and no valid key is configured.
    """
    has_runs = rendered.study.file is None
    hint = f"Publish it with: {offline_command(folder)}" if has_runs else None
    session = comparison_session(rendered.comparison.study, folder, settings, hint)
    session.open()
    run = session.run
    if run is None:
        return {}
    steps, urls = Steps(f"Publish again with: {publish_command(folder)}" if has_runs else ""), {}
    try:
        steps.take("log the comparison", lambda: log_views(run, rendered), limit=None)
        if alert is not None:
            steps.take("send an alert", lambda: run.alert(alert.title[:MAX_ALERT_TITLE], alert.text, alert.level))
        if run.offline and not session.has_given_hint:
            logger.info(f"W&B: the comparison is logged offline. {session.hint}")
        if not run.offline:
            urls = {"comparison": str(run.url)} if not steps.problems else {}
            if has_runs:
                urls |= publish_views(steps, rendered, Place(run.entity, run.project, folder), run)
        steps.report()
    finally:
        if steps.is_stuck:
            session.abandon()
        else:
            session.close(exit_code=0)
    return urls


def compare_folder(folder: Path) -> Rendered:
    """Compare the runs in a study folder by the study's metric, and write the files of the comparison to the folder.

    Raise UserError if the study cannot be compared, or if a file cannot be written.
    """
    study = read_study(folder)
    rendered = render(study, *chosen(study), folder)
    write_files(folder, rendered.comparison, rendered.drawings, rendered.page, {})
    return rendered


def verdict_of(rendered: Rendered) -> str:
    """Return the headline of a comparison."""
    return headline(rendered.comparison)


def send_alert(folder: Path, settings: Mapping[str, Any], alert: Alert) -> None:
    """Send an alert about a study folder that cannot be compared.

    The alert needs a W&B run, so an empty comparison run is started and marked as failed.
    """
    session = comparison_session(folder.name, folder, settings)
    session.open()
    if session.run is not None:
        with session.guarded("could not send an alert"):
            session.run.alert(alert.title[:MAX_ALERT_TITLE], alert.text, alert.level)
    session.close(exit_code=1)


def publish_views(steps: "Steps", rendered: Rendered, place: Place, run: Any) -> dict[str, str]:
    """Set the group names of the W&B runs, and save the workspace and the report.

    Return the URLs of the views that were saved, keyed by `workspace` and `report`.
    """
    preload(CLIENTS)  # before the steps, so that their time limits do not include the imports
    study, comparison = rendered.study, rendered.comparison
    runs = select_runs(study, comparison, place.folder, run.id)
    missing = steps.take("name the groups of the runs", lambda: relabel(place, runs.ids))
    if missing:
        logger.warning(
            f"W&B: {len(missing)} of {sum(map(len, runs.ids.values()))} runs are not on the server. Upload them with: "
            f"wandb sync {place.folder / 'wandb'}"
        )

    def sections() -> list[PanelSection]:
        return sections_of(comparison, figures_of_run(comparison, rendered.drawings), swept_keys(study))

    saved = {
        "workspace": steps.take("save the workspace", lambda: save_workspace(place, comparison, sections(), runs)),
        "report": steps.take("save the report", lambda: save_report(place, comparison, sections(), runs, run.url)),
    }
    return {name: url for name, url in saved.items() if url is not None}


def urls_text(urls: Mapping[str, str]) -> str:
    """Return one line per URL, with its name."""
    return "\n".join(f"W&B {name:<11} {url}" for name, url in urls.items())


def publish_command(folder: Path) -> str:
    """Return the command that publishes the comparison of a study folder, even if WANDB_MODE is set to offline."""
    mode = "" if current_mode(os.environ.get("WANDB_MODE", "online")) == "online" else " --wandb-mode online"
    return f"python -m imdbcls.compare {shlex.quote(str(folder))} --wandb{mode}"


def offline_command(folder: Path) -> str:
    """Return the command that uploads the offline runs of a study folder and then publishes their comparison."""
    return f"wandb sync {shlex.quote(str(folder / 'wandb'))} && {publish_command(folder)}"


class Steps:
    """Run the steps of publishing, each of which may fail or hang. After a timeout, skip all further steps."""

    def __init__(self, remedy: str) -> None:
        self.problems: dict[str, str] = {}  # reason by step
        self.is_stuck = False
        self._remedy = remedy

    def take(self, what: str, step: Callable[[], Any], limit: float | None = STEP_SECONDS) -> Any:
        """Run a step and return its result, or None if it fails, exceeds `limit` seconds or is skipped."""
        if self.is_stuck:
            return None
        try:
            return step() if limit is None else within(limit, step)
        except Exception as error:
            self.problems[what] = first_line(error)
            self.is_stuck = isinstance(error, TimeoutError)
            return None

    def report(self) -> None:
        """Log all problems as one warning."""
        if self.problems:
            reasons = "; ".join(dict.fromkeys(self.problems.values()))
            logger.warning(f"W&B: could not {joined(list(self.problems))} ({reasons}). {self._remedy}".rstrip())
