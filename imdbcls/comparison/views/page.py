"""Render a comparison as one self-contained HTML page.

The page loads nothing from the network, escapes all data, and has a strict content security policy.
"""

from collections.abc import Mapping
from dataclasses import asdict

from markupsafe import Markup

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views import svg
from imdbcls.comparison.views.advice import advice, collapsed
from imdbcls.comparison.views.detail_tables import confusion_matrices, crossing_sentences, detail_tables_of
from imdbcls.comparison.views.disagreement_link import DisagreementLink
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_groups, shown_pairs
from imdbcls.comparison.views.facts import facts_line
from imdbcls.comparison.views.figure_types import CurvePlot, Figure, IntervalPlot
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.paragraph import paragraph
from imdbcls.comparison.views.quantities import percentage_sign, value_text
from imdbcls.comparison.views.reading_list import ReadingList
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.comparison.views.templates import packaged, source_hash, templates
from imdbcls.comparison.views.terms import term_of
from imdbcls.comparison.views.wording import ranking_text, verdict, within


def page_html(
    comparison: Comparison,
    figures: Mapping[str, str],
    reading: ReadingList,
    disagreement: DisagreementLink | None = None,
) -> str:
    """Return the page. `figures` maps figure names to SVG. `reading` contains the misclassified documents to list."""
    tables = {table.key: table for table in [*tables_of(comparison), *detail_tables_of(comparison)]}
    described = figures_of(comparison)
    style = Markup(packaged("figures.css") + packaged("page.css"))
    script = Markup(packaged("page.js"))
    documents = [asdict(document) for document in reading.documents]
    return (
        templates()
        .get_template("page.html")
        .render(
            style=style,
            style_hash=source_hash(style),
            script=script,
            script_hash=source_hash(script),
            study=comparison.study,
            headline=ranking_text(comparison),
            cautions=comparison.cautions,
            facts=facts_line(comparison),
            notes=comparison.notes,
            figures={name: Markup(figure) for name, figure in figures.items()},
            tables=tables,
            term_of=term_of,
            links={run.name: run.url for group in comparison.groups for run in group.runs if run.url is not None},
            sections=sections(tables, figures),
            matrices=confusion_matrices(comparison),
            label_names=comparison.label_names,
            baseline=baseline_sentence(comparison, is_drawn=has_reference(described["accuracy"])),
            has_training=has_training_curves(described.get("curves_loss")),
            size_legend=[(svg.colour(i), svg.shape(i), curve.name) for i, curve in enumerate(comparison.size_curves)],
            crossings=crossing_sentences(comparison),
            paragraph=paragraph(comparison),
            legend=[(svg.colour(i), svg.shape(i), each.name) for i, each in enumerate(shown_groups(comparison.groups))],
            verdicts=[
                (pair.outcome, badge(pair), badged_verdict(pair, comparison.metric)) for pair in shown_pairs(comparison)
            ],
            advice=[*advice(comparison), *collapsed(comparison)],
            note_on_pairs=note_on_pairs(comparison),
            note_on_groups=note_on_groups(comparison.groups),
            mistakes=mistakes(comparison, reading),
            reasons=reading.reasons,
            disagreement=disagreement,
            documents={"documents": documents, "reasons": reading.reasons},
            margin=within(comparison.margin, comparison.metric),
            metric=comparison.metric.title,
            has_curves=any(name.startswith("curves_") for name in figures),
            has_probabilities=comparison.label_errors is not None,
            source=comparison.file or "the run folders",
        )
    )


def matrices_html(comparison: Comparison) -> str | None:
    """Return a page that contains only the confusion matrices, or None if there are too many classes to show."""
    matrices = confusion_matrices(comparison)
    style = Markup(packaged("figures.css") + packaged("page.css"))
    template = templates().get_template("matrices.html")
    values = {"matrices": matrices, "label_names": comparison.label_names, "term_of": term_of, "legend": []}
    return template.render(style=style, style_hash=source_hash(style), **values) if matrices else None


def has_reference(figure: Figure) -> bool:
    return isinstance(figure, IntervalPlot) and figure.reference is not None


def has_training_curves(figure: Figure | None) -> bool:
    return isinstance(figure, CurvePlot) and bool(figure.training)


def sections(tables: Mapping[str, Table], figures: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the anchor and the name of each section that the navigation of the page lists."""
    named = {
        "ranking": "Ranking",
        "sizes": "Training size" if "sizes" in figures else "",
        "differences": "Differences",
        "curves": "Learning curves" if any(name.startswith("curves_") for name in figures) else "",
        "costs": "Cost" if "costs" in tables else "",
        "calibration": "Calibration" if "calibration" in tables else "",
        "classes": "Classes",
        "parts": "Length" if "length" in figures else "",
        "mistakes": "Mistakes",
        "paper": "For a paper",
        "method": "Method",
    }
    return [(anchor, name) for anchor, name in named.items() if name]


def baseline_sentence(comparison: Comparison, is_drawn: bool) -> str:
    """Return a sentence on the metric of a model that always predicts the largest class.

    Return an empty string if the metric is not defined for this model.
    """
    metric, baseline = comparison.metric, comparison.baseline.get(comparison.metric.key)
    if baseline is None:
        return ""
    value = f"{value_text(metric, baseline)}{percentage_sign(metric)}"
    line = "the dashed line" if is_drawn else "outside the figure"
    return (
        f"A model that knows only the class frequencies and always predicts the largest class would have {value} "
        f"{metric.title} ({line})."
    )


def badge(pair: PairResult) -> str:
    return "better in these runs" if pair.outcome is Outcome.BETTER_HERE else pair.outcome


def badged_verdict(pair: PairResult, metric: Metric) -> str:
    text = verdict(pair, metric).removeprefix("undecided: ")  # the badge already shows this word
    return text.replace(" %", "\u00a0%")


def mistakes(comparison: Comparison, reading: ReadingList) -> str:
    num_shown = len(reading.documents)
    text = "" if comparison.label_errors is None else f"Suspected label errors: {len(comparison.label_errors):,}. "
    text += (
        f"Documents that every run misclassifies: {len(comparison.wrong_for_all):,}. The list also contains documents "
        "that one group gets right and another gets wrong in every seed."
    )
    if num_shown < reading.num_candidates:
        text += (
            f" To keep this file small, the list contains only {num_shown:,} of these {reading.num_candidates:,} "
            "documents: the clearest of each kind."
        )
    if comparison.file is None and num_shown and all(document.text is None for document in reading.documents):
        text += " The texts of the documents are missing because the data could not be read on this machine."
    return text
