"""Say in plain sentences what was compared. Facts that the runs did not record are left out."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.quantities import compact
from imdbcls.comparison.views.wording import listed
from imdbcls.printable import counted

MAX_VALUES = 3  # in one list; if there are more numbers, only their range is given
Values = Sequence[str | int | float]


def facts_line(comparison: Comparison) -> str:
    """Return sentences on what was compared: groups, encoder, data, training, hardware, versions and dates."""
    return " ".join(facts_sentences(comparison))


def facts_sentences(comparison: Comparison) -> list[str]:
    """Return the sentences of `facts_line`, the most important first."""
    facts = comparison.facts
    num_runs = sum(len(group.seeds) for group in comparison.groups)
    counts = f"{counted(len(comparison.groups), 'group')}, {counted(num_runs, 'run')}"
    sentences = [counts, data_sentence(facts)]
    if "encoder" in facts:
        sentences.insert(1, encoder_sentence(facts))
    sentences += [training_sentence(facts), hardware_sentence(facts), versions_sentence(facts), dates(facts)]
    return [f"{sentence}." for sentence in sentences if sentence]


def encoder_sentence(facts: Mapping[str, Values]) -> str:
    details = []
    if "encoder_parameters" in facts:
        details.append(f"{span(facts['encoder_parameters'], compact_count)} parameters")
    if "encoder_training" in facts:
        details.append(span(facts["encoder_training"]))
    return f"Encoder: {span(facts['encoder'])}" + (f" ({', '.join(details)})" if details else "")


def data_sentence(facts: Mapping[str, Values]) -> str:
    counts = [
        f"{span(facts[key])} {name}"
        for key, name in (
            ("train_documents", "training"),
            ("validation_documents", "validation"),
            ("test_documents", "test"),
        )
        if key in facts
    ]
    name = f"{span(facts['data'])}, " if "data" in facts else ""
    documents = "document" if facts["test_documents"][-1] == 1 else "documents"
    sentence = f"Data: {name}{listed(counts)} {documents}"
    if "test_clusters" in facts:
        sentence += f" ({clusters_text(facts)})"
    if "max_length" in facts:
        in_windows = tuple(facts.get("truncation", ())) == ("windows",)
        sentence += f"; {'windows of' if in_windows else 'at most'} {span(facts['max_length'])} tokens"
    return sentence


def clusters_text(facts: Mapping[str, Values]) -> str:
    """Return the number of clusters and what they are, such as `275 films`.

    Unless exactly one name is recorded, return a text such as `275 groups of documents that belong together`.
    """
    count = span(facts["test_clusters"])
    names = facts.get("cluster_name", ())
    if len(names) == 1:
        return f"{count} {names[0]}"
    noun = "group" if count == "1" else "groups"
    return f"{count} {noun} of documents that belong together"


def training_sentence(facts: Mapping[str, Values]) -> str:
    parts = []
    if "epochs" in facts:
        parts.append(f"{span(facts['epochs'])} {'epoch' if tuple(facts['epochs']) == (1,) else 'epochs'}")
    if "lr" in facts:
        parts.append(f"lr {span(facts['lr'])}")
    if "batch_size" in facts:
        parts.append(f"batch size {span(facts['batch_size'])}")
    return f"Training: {', '.join(parts)}" if parts else ""


def hardware_sentence(facts: Mapping[str, Values]) -> str:
    """Return hardware and precision. Precision is left out if the recorded hardware already includes it."""
    hardware, precision = facts.get("hardware", ()), facts.get("precision", ())
    if all(any(str(each).endswith(f", {name}") for name in precision) for each in hardware) and hardware:
        precision = ()
    return ", ".join(span(values, joint="; ") for values in (hardware, precision) if values)


def versions_sentence(facts: Mapping[str, Values]) -> str:
    return ", ".join(f"{name} {span(facts[name])}" for name in ("imdbcls", "torch", "transformers") if name in facts)


def dates(facts: Mapping[str, Values]) -> str:
    """Return the first and the last day on which a run finished: one day if they are equal, "" if no day is known."""
    days = sorted(date.fromisoformat(str(day)) for day in facts.get("date", ()))
    ends = dict.fromkeys(f"{day.day} {day:%b %Y}" for day in (*days[:1], *days[-1:]))
    return " to ".join(ends)


def span(values: Values, shown: Callable[[str | int | float], str] | None = None, joint: str = ", ") -> str:
    """Join at most `MAX_VALUES` different values with "or".

    If there are more numbers, return their range. If there are more texts, return the first ones and count the rest.
    """
    texts = list(dict.fromkeys((shown or value_text)(value) for value in values))
    if len(texts) > MAX_VALUES:
        if not any(isinstance(value, str) for value in values):
            return f"{texts[0]} to {texts[-1]}"
        return f"{joint.join(texts[: MAX_VALUES - 1])} and {len(texts) - MAX_VALUES + 1:,} others"
    return texts[0] if len(texts) == 1 else f"{joint.join(texts[:-1])} or {texts[-1]}"


def value_text(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def compact_count(value: str | int | float) -> str:
    """Return a number of parameters with three significant digits: `22.6M`."""
    return compact(float(f"{float(value):.3g}"))
