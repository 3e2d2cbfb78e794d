"""The comparison as one self-contained HTML page: no network, no markup from data, a strict content security policy."""

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

from imdbcls.comparison.statistics import NUM_DRAWS
from imdbcls.comparison.verdicts import kind
from imdbcls.comparison.views import svg
from imdbcls.comparison.views.extent import note_on_groups, note_on_pairs, shown_pairs
from imdbcls.comparison.views.tables import Table, tables_of

BADGES = {"here": "better here"}  # where the verdict's one word is not what is shown
SCRIPT_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page_html(comparison: dict[str, Any], figures: dict[str, str], reading: dict[str, Any]) -> str:
    """The page's text. `reading` holds the `documents` to embed and the count of all candidates (`num_candidates`)."""
    tables = {table.key: table for table in tables_of(comparison)}
    style = packaged("figures.css") + packaged("page.css")
    script = packaged("page.js")
    reasons = reason_names(reading["documents"])
    return Template(packaged("page.html")).substitute(
        style=style,
        style_hash=source_hash(style),
        script=script,
        script_hash=source_hash(script),
        study=html.escape(comparison["study"]),
        headline=html.escape(comparison["headline"]),
        facts=html.escape(facts(comparison)),
        notes=notes_html(comparison["notes"]),
        legend=legend_html(comparison["groups"]),
        accuracy=both_widths(figures, "accuracy"),
        ranking_table=table_html(tables["ranking"]),
        differences=differences_html(comparison, figures, tables),
        curves=panels(figures, "curves_") or "<p>No run logged a validation metric.</p>",
        cost_planes=panels(figures, "cost_") or "<p>No run measured its cost.</p>",
        costs_table=table_html(tables["costs"]),
        reliability=panels(figures, "reliability_")
        + (f"<p>{html.escape(hidden)}</p>" if (hidden := note_on_groups(comparison["groups"])) else ""),
        calibration_table=table_html(tables["calibration"]),
        length=both_widths(figures, "length"),
        parts_tables="".join(
            table_html(tables[key], titled=True) for key in ("length", "truncated", "class") if key in tables
        ),
        mistakes_words=html.escape(mistakes_words(comparison, reading)),
        reason_options="".join(
            f'<option value="{html.escape(k)}">{html.escape(v)}</option>' for k, v in reasons.items()
        ),
        documents=json.dumps({"documents": reading["documents"], "reasons": reasons}, allow_nan=False).translate(
            SCRIPT_ESCAPES
        ),
        method=Template(packaged("method.html")).substitute(
            num_draws=f"{NUM_DRAWS:,}",
            margin=f"{100 * comparison['margin']:.3g}",
        ),
    )


def packaged(name: str) -> str:
    return files("imdbcls.comparison.views").joinpath(name).read_text(encoding="utf-8")


def source_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def standalone(figure: str) -> str:
    """A figure as an SVG file of its own, on paper-coloured ground."""
    opening, rest = figure.split(">", 1)
    ground = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f"{opening}><style>{packaged('figures.css')}</style>{ground}{rest}\n"


def facts(comparison: dict[str, Any]) -> str:
    groups = comparison["groups"]
    runs = sum(len(group["seeds"]) for group in groups)
    documents = sorted({group["num_documents"] for group in groups})
    counts = " or ".join(f"{count:,}" for count in documents)
    clusters = sorted({group["num_clusters"] for group in groups if group["num_clusters"] is not None})
    drawn = f" in {' or '.join(f'{count:,}' for count in clusters)} clusters" if clusters else ""
    return (
        f"{len(groups)} {'group' if len(groups) == 1 else 'groups'}, {runs} runs, {counts} test documents each{drawn}."
    )


def differences_html(comparison: dict[str, Any], figures: dict[str, str], tables: dict[str, Table]) -> str:
    pairs = shown_pairs(comparison)
    if not pairs:
        return "<p>There is one group only, so there is no difference to test.</p>"
    margin = f"{100 * comparison['margin']:.3g}"
    items = "".join(
        f'<li class="verdict-{kind(pair)}"><span class="badge">{BADGES.get(kind(pair), kind(pair))}</span>'
        f"<span>{html.escape(pair['verdict'].removeprefix('undecided: '))}</span></li>"  # the badge says it
        for pair in pairs
    )
    return (
        "<p>Each line is the 95&nbsp;% interval of the first group's accuracy less the second's, of that pair alone: "
        "among many pairs some are clear of zero by luck. Colour is the verdict, which is corrected for that. Inside "
        f"the shaded band of ±{margin} points: too small to matter. {html.escape(note_on_pairs(comparison))}</p>"
        f"<figure>{both_widths(figures, 'differences')}</figure>"
        f'<ul class="verdicts" aria-label="Verdicts">{items}</ul>'
        f"<details><summary>All figures of the pairs</summary>{table_html(tables['differences'])}"
        f"{table_html(tables['flips'], titled=True)}</details>"
    )


def table_html(table: Table, titled: bool = False) -> str:
    """A table in a box that scrolls sideways on a phone, reachable by keyboard."""
    words = 2 if table.header[0] == "" else 1
    head = "".join(
        f'<th scope="col"{" class=words" * (i < words)}>{html.escape(cell)}</th>' for i, cell in enumerate(table.header)
    )
    rows = []
    for row in table.rows:
        cells = [
            f'<th scope="row">{html.escape(cell)}</th>' if i == words - 1 else f"<td>{html.escape(cell)}</td>"
            for i, cell in enumerate(row)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<h3>{html.escape(table.question)}</h3>" if titled else ""
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'{title}<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.question)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def both_widths(figures: dict[str, str], name: str) -> str:
    return figures[name] + figures[f"{name}_narrow"]


def panels(figures: dict[str, str], prefix: str) -> str:
    return "".join(f"<figure>{figure}</figure>" for name, figure in figures.items() if name.startswith(prefix))


def legend_html(groups: list[dict[str, Any]]) -> str:
    items = [
        f'<li class="{svg.colour(i)}"><svg viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<path d="{svg.MARKERS[i % len(svg.MARKERS)]}"/></svg>{html.escape(group["name"])}</li>'
        for i, group in enumerate(groups)
    ]
    return f'<ul class="legend" aria-label="Groups">{"".join(items)}</ul>'


def notes_html(notes: list[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    heading = '<section id="notes" aria-labelledby="h-notes"><h2 id="h-notes">Please note</h2>'
    return f'{heading}<ul class="notes">{items}</ul></section>'


def reason_names(documents: list[dict[str, Any]]) -> dict[str, str]:
    """What each reason for listing a document is called, in the order in which they first occur."""
    fixed = {"label": "label looks wrong", "all": "no run got it right"}
    found = dict.fromkeys(reason for document in documents for reason in document["reasons"])
    return {reason: fixed.get(reason, reason.replace(" > ", " right, ") + " wrong, in every seed") for reason in found}


def mistakes_words(comparison: dict[str, Any], reading: dict[str, Any]) -> str:
    documents = reading["documents"]
    suspects, hard = comparison["label_errors"]["count"], comparison["wrong_for_all"]["count"]
    words = (
        f"{suspects:,} labels look wrong; no run got {hard:,} documents right; on others one group is right and "
        "another wrong in every seed."
    )
    if len(documents) < reading["num_candidates"]:
        words += (
            f" To keep this file small it holds {len(documents):,} of these {reading['num_candidates']:,} documents, "
            "the clearest of each kind."
        )
    if documents and all(document["text"] is None for document in documents):
        words += " Their texts are not shown, because the data could not be read from here."
    return words
