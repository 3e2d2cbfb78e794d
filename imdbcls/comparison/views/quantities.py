"""Format values and differences of a metric: in percent and points if the metric is a percentage, else unscaled."""

from imdbcls.comparison.metrics import Metric

NONE = "\u2013"


def scale_of(metric: Metric) -> float:
    return 100.0 if metric.is_percentage else 1.0


def title_of(metric: Metric) -> str:
    """Return the title of the metric for an axis or a column."""
    return f"{metric.title} %" if metric.is_percentage else metric.title


def unit_of(metric: Metric) -> str:
    """Return the unit of a difference with a leading space, or an empty string."""
    return " points" if metric.is_percentage else ""


def percentage_sign(metric: Metric) -> str:
    """Return the unit of a value with a leading space, or an empty string."""
    return " %" if metric.is_percentage else ""


def value_text(metric: Metric, value: float | None) -> str:
    if value is None:
        return NONE
    text = f"{100 * value:.2f}" if metric.is_percentage else f"{value:.4f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed_text(metric: Metric, value: float) -> str:
    text = value_text(metric, value)
    return text if text.startswith("-") else f"+{text}"


def interval_text(metric: Metric, low: float, high: float) -> str:
    return f"{value_text(metric, low)} to {value_text(metric, high)}"


def signed_interval_text(metric: Metric, low: float, high: float) -> str:
    return f"{signed_text(metric, low)} to {signed_text(metric, high)}"


def margin_text(metric: Metric, margin: float) -> str:
    """Format a margin without trailing zeros and without its unit."""
    return f"{scale_of(metric) * margin:.3g}"


def compact(value: float) -> str:
    """Format a number in few characters, with a suffix for thousands (k), millions (M) or billions (G)."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]
