"""The terminal output of a comparison, as plain text: a summary of about 20 lines, or the full text."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len

from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.advice import advice, collapsed
from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.facts import (
    encoder_sentence,
    facts_line,
    hardware_sentence,
    training_sentence,
)
from imdbcls.comparison.views.paragraph import documents_text, paragraph
from imdbcls.comparison.views.quantities import unit_of
from imdbcls.comparison.views.tables import Table, ranking, tables_of
from imdbcls.comparison.views.wording import WORDS, brief_verdict, detectable_text, headline, verdict, within
from imdbcls.printable import counted
from imdbcls.runtime.text_table import GAP, joined, shortened, smallest_width, text_table, wrapped

WIDTH = 80  # width of text that is not written to a terminal
NARROWEST, WIDEST = 60, 110  # smallest and largest width of text on a terminal
WORD_WIDTH = max(map(len, WORDS.values())) + 2
# In the summary:
MAX_NAMED = 4  # groups in one clause
MAX_RANKED = 10  # groups
MAX_VERDICTS = 6
MAX_NOTES = 3  # lines
RANKING_COLUMNS = ("", "group", "95 % interval", "seeds")  # on narrow terminals; the metric is also shown

# Regular expressions for the words that a terminal shows in colour, each with its style for rich.
STYLES = {
    rf"(?m)^{WORDS[Outcome.BETTER]}(?=  )|\bis better than\b": "bold green",
    rf"(?m)^{WORDS[Outcome.BETTER_HERE]}(?=  )|\bscored better than\b": "green",
    rf"(?m)^{WORDS[Outcome.EQUIVALENT]}(?=  )|\bare equivalent within\b": "cyan",
    rf"(?m)^{WORDS[Outcome.UNDECIDED]}(?=  )|^- undecided\b": "yellow",
    rf"(?m)^{WORDS[Outcome.UNTESTED]}(?=  )|\bare not tested against\b": "dim",
}


def terminal_summary(comparison: Comparison, folder: Path, width: int | None = None) -> str:
    """Return a summary: facts, headline, ranking, verdicts, notes and the path of the page.

    `width` is the width of the terminal in characters, or None if the text is not written to a terminal.
    """
    columns = text_width(width)
    blocks = [
        f"{brief_facts(comparison, columns)}\n{wrapped(headline(comparison, MAX_NAMED), columns)}",
        brief_ranking(comparison, columns),
        brief_verdicts(comparison, columns),
        brief_notes([note for note in comparison.notes if note not in comparison.cautions], columns),
        files_text(folder, "Use --full, or open this page"),
    ]
    return "\n\n".join(block for block in blocks if block)


def files_text(folder: Path, before: str = "Wrote this page") -> str:
    """Return a sentence that lists the written files, with the path of the page on a line of its own."""
    return f"{before} (also .md .tex .json .csv, comparison_pairs.csv):\n{folder / 'comparison.html'}"


def terminal_text(comparison: Comparison, width: int | None = None) -> str:
    """Return the full text: facts, headline, tables, verdicts, mistakes, notes and the paragraph for a paper.

    Tables are at most `width` characters wide if that is possible, or have any width if `width` is None.
    """
    columns = text_width(width)
    blocks = [wrapped(f"{comparison.study}: {facts_line(comparison)}", columns), wrapped(headline(comparison), columns)]
    for table in tables_of(comparison):
        parts, left_out = fitted(table, width)
        note = f"{table.note} {left_out}".strip()
        texts = [text_table(part.rows, part.header, part.num_text_columns, width) for part in parts]
        blocks.append("\n".join([table.question, *texts, *([wrapped(note, columns)] if note else [])]))
        if table.key == "differences":
            verdicts = [verdict(pair, comparison.metric) for pair in shown_pairs(comparison)]
            blocks.append(titled("Verdicts", verdicts, columns))
    mistakes = f"Documents that every run misclassifies: {len(comparison.wrong_for_all):,}."
    if comparison.label_errors is not None:
        mistakes = (
            "Suspected label errors (all groups confidently predict the same class, which is not the label): "
            f"{len(comparison.label_errors):,}. {mistakes}"
        )
    blocks.append(wrapped(mistakes, columns))
    if comparison.notes:
        blocks.append(titled("Notes", comparison.notes, columns))
    return "\n\n".join([*blocks, f"For a paper\n{wrapped(paragraph(comparison), columns)}"])


def text_width(width: int | None) -> int:
    """Return the maximum length of a line of text. `width` is the width of the terminal, or None for other output."""
    return WIDTH if width is None else min(max(width, NARROWEST), WIDEST)


def titled(title: str, sentences: Sequence[str], columns: int) -> str:
    return "\n".join([title, *(wrapped(sentence, columns, "- ") for sentence in sentences)])


def fitted(table: Table, width: int | None) -> tuple[list[Table], str]:
    """Fit a table into `width` characters. Return its parts, and a sentence about the columns that were left out.

    Optional columns are left out first. If the table is still too wide, it is split into several tables, each of which
    repeats the text columns. The sentence is empty if no column was left out.
    """
    left_out = []
    while width is not None and table.optional and narrowest(table, wraps_text=False) > width:
        left_out.append(table.header[table.optional[0]])
        table = table.without(table.optional[0])
    if not left_out:
        return blocks_of(table, width), ""
    sentence = (
        f"Not shown, because the terminal is too narrow: {joined(list(dict.fromkeys(left_out)))}. A wider terminal and "
        "comparison.html show all columns."
    )
    return blocks_of(table, width), sentence


def blocks_of(table: Table, width: int | None) -> list[Table]:
    """Split a table that is too wide into tables with the same text columns and as many other columns as fit."""
    first = list(range(table.num_text_columns))
    blocks = [first]
    for column in range(len(first), len(table.header)):
        is_too_wide = width is not None and narrowest(table.columns([*blocks[-1], column])) > width
        blocks[-1:] = [blocks[-1], [*first, column]] if is_too_wide and blocks[-1] != first else [[*blocks[-1], column]]
    return [table.columns(block) for block in blocks]


def narrowest(table: Table, wraps_text: bool = True) -> int:
    return smallest_width(table.rows, table.header, table.num_text_columns, wraps_text)


def brief_facts(comparison: Comparison, columns: int) -> str:
    """Return sentences on what was compared: the counts, and each further fact that fits on the same line."""
    facts, groups = comparison.facts, comparison.groups
    runs = counted(sum(len(group.seeds) for group in groups), "run")
    text = f"{comparison.study}: {counted(len(groups), 'group')}, {runs}, {documents_text(comparison)}."
    others = [encoder_sentence(facts) if "encoder" in facts else "", training_sentence(facts), hardware_sentence(facts)]
    for sentence in others:
        if sentence and cell_len(longer := f"{text} {sentence}.") <= columns:
            text = longer
    return wrapped(text, columns)


def brief_ranking(comparison: Comparison, columns: int) -> str:
    """Return a table of the best groups. The last row is the baseline that always predicts the largest class."""
    table = ranking(comparison).without_empty_columns()
    *groups, baseline = table.rows
    num_more = max(0, len(groups) - MAX_RANKED)
    table.rows[:] = [*(groups if num_more < 2 else groups[:MAX_RANKED]), baseline]
    if columns <= WIDTH:
        table = table.columns([i for i, name in enumerate(table.header) if i == 2 or name in RANKING_COLUMNS])
    name = table.header.index("group")
    room = columns - narrowest(table.without(name)) - GAP
    for row, short in zip(table.rows, shortened([row[name] for row in table.rows], room), strict=True):
        row[name] = short
    parts, _ = fitted(table, columns)
    texts = [text_table(part.rows, part.header, part.num_text_columns, columns) for part in parts]
    return "\n".join([*texts, *([f"and {num_more:,} more groups (see --full)"] if num_more > 1 else [])])


def brief_verdicts(comparison: Comparison, columns: int) -> str:
    """Return the first verdicts and an explanation of their terms, or an empty string if there are no pairs."""
    pairs = comparison.pairs
    if not pairs:
        return ""
    num_more = len(pairs) - MAX_VERDICTS
    shown = pairs if num_more < 2 else pairs[:MAX_VERDICTS]
    lines = []
    for pair in shown:
        word, clause = brief_verdict(pair, comparison.metric)
        lines.append(wrapped(clause, columns, word.ljust(WORD_WIDTH)))
    if num_more > 1:
        lines.append(f"and {num_more:,} more pairs (see --full)")
    return "\n".join([*lines, wrapped(" ".join(explanations(comparison, shown)), columns)])


def explanations(comparison: Comparison, shown: Sequence[PairResult]) -> list[str]:
    """Return sentences that explain intervals and verdicts, advise on undecided pairs, and report collapsed seeds."""
    metric, tested = comparison.metric, [pair for pair in comparison.pairs if not pair.problem]
    outcomes = {pair.outcome for pair in shown}
    sentences = []
    if tested:
        several = [len(group.seeds) > 1 for group in comparison.groups]
        over = "documents and seeds" if all(several) else "documents, and over seeds for groups with several"
        over = over if any(several) else "documents only"
        together = [f"all {len(tested):,} pairs"] if len(tested) > 1 else []
        together += [] if comparison.plan is None else ["all planned looks"]
        hold = f" For differences, they hold for {' and '.join(together)} together." if together else ""
        sentences.append(f"95 % intervals are over {over}.{hold}")
    margin = within(comparison.margin, metric) if tested else ""
    if Outcome.BETTER_HERE in outcomes:
        sentences.append("Better here: these trained models differ; other seeds may reverse the order.")
    if Outcome.EQUIVALENT in outcomes:
        sentences.append(
            f"Equivalent: two one-sided tests show a difference below {margin}. An interval can extend further."
        )
    if Outcome.UNDECIDED in outcomes:
        neither = (
            f"not shown to be better or equivalent (within {margin})" if margin else "no group is shown to be better"
        )
        sentences.append(f"Undecided: {neither}{'' if margin else ', which does not mean that the groups are equal'}.")
    undecided = [pair for pair in shown if pair.outcome is Outcome.UNDECIDED]
    if detectable := [d for pair in undecided if (d := pair.minimum_detectable_difference) is not None]:
        low, high = detectable_text(metric, min(detectable)), detectable_text(metric, max(detectable))
        sizes = low if low == high else f"{low.removesuffix(unit_of(metric))} to {high}, depending on the pair"
        sentences.append(f"80 % of studies like this detect a true difference of {sizes}.")
    return [*sentences, *advice(comparison), *collapsed(comparison)]


def brief_notes(notes: Sequence[str], columns: int) -> str:
    """Return as many notes as fit in `MAX_NOTES` lines, and the number of the remaining notes."""
    for count in range(len(notes), 0, -1):
        lines = [line for note in notes[:count] for line in wrapped(note, columns, "- ").splitlines()]
        if count < len(notes):
            noun = "note" if len(notes) - count == 1 else "notes"
            lines.append(f"and {len(notes) - count:,} more {noun} (see --full)")
        if len(lines) <= MAX_NOTES:
            return "\n".join(lines)
    return f"{counted(len(notes), 'note')} (see --full)" if notes else ""
