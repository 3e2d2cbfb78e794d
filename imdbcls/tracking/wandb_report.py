"""Save a comparison as a W&B report and workspace, with the study's runs grouped by head.

This needs the package wandb-workspaces.
"""

import re
from typing import Any

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.markdown import markdown, markdown_table
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.comparison.views.wording import headline
from imdbcls.errors import UserError
from imdbcls.runtime.waiting import is_reachable, within
from imdbcls.tracking.server import PROBE_SECONDS, first_line, stop_helper, why_not_online

SAVE_SECONDS = 60.0  # time limit for the few requests that save the report and the workspace
CURVES = ("val/accuracy", "val/loss", "train/loss")


def create_report(comparison: Comparison, *, project: str, entity: str | None) -> str:
    """Save the report and the workspace, and return their URLs, one per line.

    If `entity` is None, the default entity of the API key's account is used. Raises UserError if wandb-workspaces is
    not installed, if no valid key or no entity is configured, or if the server does not answer or returns an error.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise UserError("--report needs wandb-workspaces: pip install wandb-workspaces.") from error
    import wandb

    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    problem = why_not_online(settings)
    if problem is None and not is_reachable(settings.base_url, PROBE_SECONDS):
        problem = f"{settings.base_url} does not answer"
    if problem is not None:
        raise UserError(f"--report needs a W&B server and an API key: {problem}.")
    try:
        urls = within(SAVE_SECONDS, lambda: save(comparison, project, entity))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"W&B could not save the report: {first_line(error)}.") from error
    finally:
        stop_helper()
    return "\n".join(urls)


def save(comparison: Comparison, project: str, entity: str | None) -> tuple[str, str]:
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces import expr

    study, answer = comparison.study, headline(comparison)
    owner = owner_of(entity)
    runs = reports.Runset(
        entity=owner, project=project, name=study, filters=runs_of(study), groupby=["config.head.name"]
    )
    report = reports.Report(
        project=project,
        entity=owner,
        title=f"Comparison of {study}",
        description=answer,
        blocks=[
            reports.P(answer),
            reports.PanelGrid(runsets=[runs], panels=curve_panels()),
            *(block for table in tables_of(comparison) for block in table_blocks(table)),
        ],
    )
    report.save()
    workspace = workspaces.Workspace(
        entity=owner,
        project=project,
        name=f"{study} by head",
        sections=[workspaces.Section(name="Validation and loss", panels=curve_panels(), is_open=True)],
        runset_settings=workspaces.RunsetSettings(filters=runs_of(study), groupby=[expr.Config("head.name")]),
    )
    workspace.save()
    return report.url, workspace.url


def owner_of(entity: str | None) -> str:
    """Return `entity`, or the default entity of the API key's account. Raise UserError if there is no default."""
    import wandb

    owner = entity or wandb.Api().default_entity
    if owner is None:
        raise UserError(
            "--report needs a W&B entity, and the API key's account has no default entity. Set WANDB_ENTITY."
        )
    return owner


def runs_of(study: str) -> str:
    """Return the filter for a study's training runs. Special characters, such as quotes, become `_`."""
    return f"Group = '{re.sub(r'[^A-Za-z0-9_. -]', '_', study)}' and JobType = 'train'"


def curve_panels() -> list[Any]:
    """Return one plot per curve: the mean over a head's seeds, with a band from the minimum to the maximum."""
    import wandb_workspaces.reports.v2 as reports

    return [
        reports.LinePlot(
            title=metric,
            x="step",
            y=[metric],
            groupby="config.head.name",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for metric in CURVES
    ]


def table_blocks(table: Table) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    blocks = [reports.H2(table.question), reports.MarkdownBlock("\n".join(markdown_table(table)))]
    return [*blocks, reports.MarkdownBlock(markdown(table.note))] if table.note else blocks
