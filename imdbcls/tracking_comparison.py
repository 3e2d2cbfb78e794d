"""For imdbcls/tracking.py: the W&B side of a comparison. Move both functions there; only that module imports wandb.

To settle in the move: `PROJECT` and `mode="auto"` belong to what tracking.py already does for training runs (the
project of conf/tracker, one place that decides online or offline, the bounded wait for a server).
"""

import os
import re
from pathlib import Path
from typing import Any

PROJECT = os.environ.get("WANDB_PROJECT", "imdbcls")


def log_comparison(
    study: str, folder: Path, tables: list[Any], figures: dict[str, str], html: str, mode: str = "auto"
) -> None:
    """Log one run of type `comparison` for the study: every table, every figure (SVG), and the whole page.

    `tables` have `key`, `header` and `rows`; `figures` are SVG texts by name. Logging a study again continues its
    run. W&B's files go beside those of the study's runs: `folder/wandb`.
    """
    import wandb

    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    run_id = "comparison-" + re.sub(r"[^A-Za-z0-9_-]+", "-", study)[:80]
    with wandb.init(
        project=PROJECT,
        id=run_id,
        name=f"comparison of {study}",
        group=study,
        job_type="comparison",
        tags=["comparison"],
        dir=folder,
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        reinit="finish_previous",
    ) as run:
        logged: dict[str, Any] = {
            f"comparison/tables/{table.key}": wandb.Table(columns=unique(table.header), data=table.rows)
            for table in tables
        }
        for name, figure in figures.items():
            if not name.endswith("_narrow"):
                logged[f"comparison/figures/{name}"] = wandb.Html(figure, inject=False)
        logged["comparison/page"] = wandb.Html(html, inject=False)
        run.log(logged)


def create_report(study: str, headline: str, tables: list[Any]) -> str:
    """Save a W&B report and a workspace of the study's runs grouped by head; returns their addresses, one per line.

    Needs the extra `report` and a server. Markdown in the report is made from the same tables as everything else.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces import expr
    except ImportError:
        raise SystemExit("compare: --report needs the extra: pip install 'imdbcls[report]'") from None
    import wandb

    from imdbcls.comparison.export import markdown, markdown_table

    entity = wandb.Api().default_entity
    # One text for both: names from a study cannot end the quoted value.
    only_this_study = f"Group = '{re.sub(r'[^A-Za-z0-9_. -]', '_', study)}' and JobType = 'train'"
    panels = [
        reports.LinePlot(
            title=metric,
            x="step",
            y=[metric],
            groupby="config.head.name",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for metric in ("val/accuracy", "val/loss", "train/loss")
    ]
    runs = reports.Runset(
        entity=entity, project=PROJECT, name=study, filters=only_this_study, groupby=["config.head.name"]
    )
    blocks: list[Any] = [reports.P(headline), reports.PanelGrid(runsets=[runs], panels=panels)]
    for table in tables:
        blocks += [reports.H2(table.question), reports.MarkdownBlock("\n".join(markdown_table(table)))]
        if table.note:
            blocks.append(reports.MarkdownBlock(markdown(table.note)))
    report = reports.Report(
        project=PROJECT, entity=entity, title=f"Comparison of {study}", description=headline, blocks=blocks
    )
    report.save()
    workspace = workspaces.Workspace(
        entity=entity,
        project=PROJECT,
        name=f"{study} by head",
        sections=[workspaces.Section(name="Validation and loss", panels=list(panels), is_open=True)],
        runset_settings=workspaces.RunsetSettings(filters=only_this_study, groupby=[expr.Config("head.name")]),
    )
    workspace.save()
    return f"{report.url}\n{workspace.url}"


def unique(header: list[str]) -> list[str | int]:
    """Column names that differ, as W&B tables require: repeated ones get the name of the column before."""
    names: list[str | int] = []
    for name in header:
        label = name or "rank"
        names.append(f"{names[-1]} {label}" if header.count(name) > 1 else label)
    return names
