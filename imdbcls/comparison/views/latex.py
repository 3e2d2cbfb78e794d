"""A comparison as LaTeX tables: `comparison.tex`, for a paper that loads the package booktabs."""

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import Comparison, GroupSummary, PairResult
from imdbcls.comparison.views.extent import MAX_PAIRS, shown_pairs
from imdbcls.comparison.views.paragraph import documents_text, paragraph, plural, tested, trained_text
from imdbcls.comparison.views.quantities import NONE, signed_text, title_of, unit_of, upper_first, value_text
from imdbcls.comparison.views.wording import WORDS, p_cell, within, without_a_model
from imdbcls.printable import printable_line
from imdbcls.runtime.text_table import wrapped

COMMENT_WIDTH = 100
MAX_ROWS = MAX_PAIRS  # rows of a table; a longer table does not fit on a page
ESCAPES = {
    **{character: f"\\{character}" for character in "{}$&%#_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    NONE: r"\textendash{}",
    '"': r"{\char34}",  # for some languages, babel turns a plain double quote into a command
    "[": "{[}",  # at the start of a row, LaTeX would take it for an argument of the preceding \\
    "]": "{]}",
    "*": "{*}",
}
SPECIAL = re.compile("|".join(map(re.escape, ESCAPES)))
LIGATURE = re.compile(r"([-,'])(?=\1)")  # LaTeX prints two equal characters of this set as one character
BEFORE_PERCENT = re.compile(r" (?=\\%)")
MINUS = re.compile(r"(?<=[ (])-(?=\d)")
KNOWN_TO_PDFLATEX = re.compile(r"[\x00-\u017f\u2013\u2026]*")  # Latin scripts, the dash and the ellipsis


class Latex(str):
    """Text that is already LaTeX. The template does not escape it."""

    __slots__ = ()


def latex_text(comparison: Comparison) -> str:
    """Return LaTeX tables of the groups and the pairs. A comment contains the paragraph for a paper."""
    metric = comparison.metric
    columns = columns_of_groups(comparison)
    baseline = number(value_text(metric, comparison.baseline.get(metric.key)))
    num_rows = len(next(iter(columns.values())))
    return template().render(
        needs_unicode=any(KNOWN_TO_PDFLATEX.fullmatch(group.name) is None for group in comparison.groups),
        paragraph=[Latex(line) for line in wrapped(escape(paragraph(comparison)), COMMENT_WIDTH).splitlines()],
        label=f"tab:{slug(comparison.study)}-{metric.name}",
        groups_caption=caption_of_groups(comparison),
        alignment="r" * (len(columns) - 1),
        group_header=line_of(list(columns)),
        groups=[line_of([cells[row] for cells in columns.values()]) for row in range(num_rows)],
        baseline=line_of(["Largest class", baseline, *[""] * (len(columns) - 2)]),
        pairs_caption=caption_of_pairs(comparison),
        pair_header=line_of(["Models", *pair_header(metric)]),
        pairs=[line_of(pair_row(pair, metric)) for pair in shown_pairs(comparison)],
    )


def template() -> Template:
    """Return the template. It escapes every value that is not `Latex`."""
    environment = Environment(
        loader=PackageLoader("imdbcls.comparison.views", ""),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=escape,
    )
    return environment.get_template("comparison.tex")


def escape(value: object) -> Latex:
    """Return LaTeX that prints a value literally, on one line. A `Latex` value is returned unchanged."""
    if isinstance(value, Latex):
        return value
    escaped = SPECIAL.sub(lambda match: ESCAPES[match[0]], printable_line(str(value)))
    return Latex(MINUS.sub("$-$", BEFORE_PERCENT.sub(r"\\,", LIGATURE.sub(r"\1{}", escaped))))


def line_of(cells: Sequence[str]) -> Latex:
    return Latex(" & ".join(map(escape, cells)))


def number(text: str) -> Latex:
    """Return a formatted number as LaTeX. A hyphen at its start, as in `-0.12`, becomes a minus sign."""
    return Latex(f"${text}$") if text[0] in "+-<" else escape(text)


def interval(metric: Metric, low: float, high: float) -> Latex:
    return Latex(f"{number(value_text(metric, low))} to {number(value_text(metric, high))}")


def columns_of_groups(comparison: Comparison) -> dict[str, Sequence[str]]:
    """Return the columns of the table of groups: a list of cells for each column title."""
    metric, groups = comparison.metric, comparison.groups[:MAX_ROWS]
    columns: dict[str, Sequence[str]] = {
        "Model": [name_of(group, comparison) for group in groups],
        upper_first(title_of(metric)): [value_text(metric, group.primary.mean) for group in groups],
        "95 % interval": [interval(metric, group.primary.low, group.primary.high) for group in groups],
        "Seeds": [str(len(group.seeds)) for group in groups],
    }
    if any(group.ensemble for group in groups):
        columns["Ensemble"] = [value_text(metric, group.ensemble.get(metric.key)) for group in groups]
    parameters = [group.cost["head_parameters"] for group in groups]
    if any(value is not None for value in parameters):
        columns["Head parameters"] = [NONE if value is None else f"{value:,.0f}" for value in parameters]
    return columns


def name_of(group: GroupSummary, comparison: Comparison) -> Latex:
    is_bold = has_bold_names(comparison) and group.name in (comparison.short_list or ())
    return Latex(rf"\textbf{{{escape(group.name)}}}") if is_bold else escape(group.name)


def has_bold_names(comparison: Comparison) -> bool:
    """Return whether names on the short list are bold: the list is known, and does not contain every group."""
    return comparison.short_list is not None and len(comparison.short_list) < len(comparison.groups)


def pair_header(metric: Metric) -> list[str]:
    unit = f" ({unit_of(metric).strip()})" if unit_of(metric) else ""
    return [f"Difference{unit}", "95 % interval", Latex("$p$"), "Verdict"]


def pair_row(pair: PairResult, metric: Metric) -> list[str]:
    names = Latex(f"{escape(pair.a)} $-$ {escape(pair.b)}")
    if pair.problem:
        return [names, NONE, NONE, NONE, WORDS[pair.outcome]]
    word = WORDS[pair.outcome]
    if pair.significant and pair.leader != pair.a:
        word = word.replace("better", "worse")
    ends = interval(metric, pair.simultaneous_low, pair.simultaneous_high)
    return [names, number(signed_text(metric, pair.difference)), ends, number(p_cell(pair.p_holm)), word]


def caption_of_groups(comparison: Comparison) -> str:
    metric, groups = comparison.metric, comparison.groups
    several = [len(group.seeds) > 1 for group in groups]
    over = "documents and seeds" if all(several) else "documents, and over seeds for models with several"
    text = (
        f"{upper_first(metric.title)} of {len(groups):,} {plural('model', len(groups))}, {trained_text(comparison)}, "
        f"on {documents_text(comparison)}. The 95 % confidence intervals cover the variation over "
        f"{over if any(several) else 'documents'}."
    )
    if not metric.higher_is_better:
        text += " Lower is better."
    if any(several):
        text += " Ensemble: probabilities averaged over seeds."
    text += f" Largest class: {without_a_model(metric)}."
    if has_bold_names(comparison):
        text += " Bold: models that may be the best (95 % confidence; Hsu, 1996)."
    if len(groups) > MAX_ROWS:
        text += f" The best {MAX_ROWS} of {len(groups):,} models are shown."
    return text


def caption_of_pairs(comparison: Comparison) -> str:
    metric, pairs, shown = comparison.metric, tested(comparison), shown_pairs(comparison)
    over = "documents and seeds" if any(pair.seeds_varied for pair in pairs) else "documents"
    text = f"Differences in {metric.title} (first minus second model), tested over {over}."
    if len(pairs) > 1:
        text += (
            f" The intervals hold, with 95 % confidence, for all {len(pairs):,} pairs together; p-values are corrected "
            "with Holm's method."
        )
    text += " Better and worse refer to the first model (p < 0.05)."
    if pairs and comparison.margin is not None:
        text += (
            f" Equivalent: the models differ by less than {within(comparison.margin, metric)} (two one-sided tests)."
        )
    if len(shown) < len(comparison.pairs):
        text += f" {len(shown):,} pairs of the best model are shown."
    return text


def slug(text: str) -> str:
    """Return the text for a LaTeX label, in lower case. Characters except ASCII letters and digits become hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "study"
