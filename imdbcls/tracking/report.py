"""Build and save the W&B report of a study: the verdict, sections of panels, and the tables."""

from collections.abc import Sequence
from typing import Any

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.markdown import markdown, markdown_table, verdict_markdown
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.comparison.views.wording import headline
from imdbcls.tracking.panels import COLUMNS, PanelSection
from imdbcls.tracking.runsets import RunSelection
from imdbcls.tracking.saved_views import Place, earlier, title_of


def save_report(
    place: Place, comparison: Comparison, sections: Sequence[PanelSection], runs: RunSelection, comparison_url: str
) -> str:
    """Save the report and return its URL. Replace the report that was saved earlier for this study folder."""
    import wandb_workspaces.reports.v2 as reports

    report = build_report(place, comparison, sections, runs, comparison_url)
    saved = earlier(reports.Report.from_url, place.url("report"))
    if saved is not None:
        report.id = saved.id
    report.save()
    place.remember("report", report.url)
    return str(report.url)


def build_report(
    place: Place, comparison: Comparison, sections: Sequence[PanelSection], runs: RunSelection, comparison_url: str
) -> Any:
    """Return the report. The caller must save it. `comparison_url` is the URL of the comparison's W&B run."""
    import wandb_workspaces.reports.v2 as reports

    runset = reports.Runset(
        entity=place.entity,
        project=place.project,
        name=title_of(comparison.study),
        filters=runs.filters,
        run_settings={run: reports.RunSettings(color=colour) for run, colour in runs.colours.items()},
        pinned_columns=["run:displayName", *runs.columns],
    )
    page = f"All figures, all tables and the complete page are in the [W&B run of the comparison]({comparison_url})."
    return reports.Report(
        project=place.project,
        entity=place.entity,
        title=title_of(f"Comparison of {comparison.study}"),
        description=headline(comparison),
        width="fluid",
        blocks=[
            reports.MarkdownBlock(verdict_markdown(comparison)),
            reports.MarkdownBlock(page),
            reports.TableOfContents(),
            *(block for section in sections for block in section_blocks(section, runset)),
            *(block for table in tables_of(comparison) for block in table_blocks(table)),
        ],
    )


def section_blocks(section: PanelSection, runset: Any) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    arrange(section.panels)
    grid = reports.PanelGrid(runsets=[runset], panels=section.panels, hide_run_sets=True)
    return [reports.H2(section.title), grid]


def arrange(panels: Sequence[Any]) -> None:
    """Set the positions of the panels in a report's grid: row by row, in their order."""
    x = y = height = 0
    for panel in panels:
        if x + panel.layout.w > COLUMNS:
            x, y, height = 0, y + height, 0
        panel.layout.x, panel.layout.y = x, y
        x, height = x + panel.layout.w, max(height, panel.layout.h)


def table_blocks(table: Table) -> list[Any]:
    import wandb_workspaces.reports.v2 as reports

    blocks = [reports.H2(table.question), reports.MarkdownBlock("\n".join(markdown_table(table)))]
    return [*blocks, reports.MarkdownBlock(markdown(table.note))] if table.note else blocks
