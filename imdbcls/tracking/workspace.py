"""Build and save the W&B workspace of a study: its runs, the verdict of its comparison, and sections of panels."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.markdown import verdict_markdown
from imdbcls.tracking.panels import WIDE, PanelSection
from imdbcls.tracking.runsets import GROUP_LABEL, RunSelection
from imdbcls.tracking.saved_views import Place, earlier, title_of

MAX_RUNS = 100  # largest number of runs that a panel can show


def save_workspace(place: Place, comparison: Comparison, sections: Sequence[PanelSection], runs: RunSelection) -> str:
    """Save the workspace and return its URL. Replace the workspace that was saved earlier for this study folder."""
    import wandb_workspaces.workspaces as workspaces

    workspace = build_workspace(place, comparison, sections, runs)
    saved = earlier(workspaces.Workspace.from_url, place.url("workspace"))
    if saved is not None:
        saved.name, saved.sections = workspace.name, workspace.sections
        saved.settings, saved.runset_settings = workspace.settings, workspace.runset_settings
        workspace = saved
    else:
        workspace._internal_name = view_name()
    workspace.save()
    place.remember("workspace", workspace.url)
    return str(workspace.url)


def view_name() -> str:
    """Return the name `nw-<id>-v` for a new view. The id is random and hexadecimal.

    wandb_workspaces builds the URL of a view by removing every `nw-` and `-v` from the name. Its own random ids may end
    in `nw` or start with `v`, and then the URL is wrong. A hexadecimal id contains none of the letters n, w and v.
    """
    return f"nw-{uuid4().hex[:11]}-v"


def build_workspace(place: Place, comparison: Comparison, sections: Sequence[PanelSection], runs: RunSelection) -> Any:
    """Return the workspace. The caller must save it.

    The table of runs is not grouped, so that scatter plots and parallel coordinates show each run in the colour of its
    group. Plots of curves and bars have their own option that groups the runs.
    """
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces import expr

    verdict = reports.MarkdownPanel(markdown=verdict_markdown(comparison), layout=reports.Layout(**WIDE))
    colours = {run: workspaces.RunSettings(color=colour) for run, colour in runs.colours.items()}
    return workspaces.Workspace(
        entity=place.entity,
        project=place.project,
        name=title_of(f"Comparison of {comparison.study}"),
        sections=[
            workspaces.Section(
                name=section.title,
                panels=section.panels,
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=section.num_columns, rows=2),
            )
            for section in (PanelSection("Verdict", [verdict], num_columns=1), *sections)
        ],
        settings=workspaces.WorkspaceSettings(max_runs=min(len(colours) + 1, MAX_RUNS)),
        runset_settings=workspaces.RunsetSettings(
            filters=runs.filters,
            order=[expr.Ordering(expr.Config(f"{GROUP_LABEL}.value"), ascending=True)],
            run_settings=colours,
            pinned_columns=[*runs.columns],
            pinned_runs=[runs.comparison_id],  # pinned runs are always loaded; this run has the figures
        ),
    )
