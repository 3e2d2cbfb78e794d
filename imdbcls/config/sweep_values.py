"""Convert the values that a W&B sweep agent passes on the command line.

The agent writes values as Python does: `trainer.patience=None`, `batch_size=16.0` (from the distributions `q_uniform`
and `q_normal`) and, for nested parameters, `optimizer={'layer_decay': 0.9}`. Hydra does not read
these values as intended.
"""

import ast
import json
from collections.abc import Iterator
from typing import Any

from imdbcls.config.quoting import MAPPINGS_OF_LABELS
from imdbcls.runtime.sweep_agent import in_sweep

MAX_WHOLE_FLOAT = 1e15  # larger whole floats stay floats, because they may not be exact


def from_sweep_agent(argument: str) -> list[str]:
    """Convert an argument to overrides in Hydra's syntax, one per nested parameter.

    Outside a W&B sweep, return the argument unchanged.
    """
    return list(_converted(argument)) if in_sweep() else [argument]


def _converted(argument: str) -> Iterator[str]:
    key, equals, text = argument.partition("=")
    value = _python_value(text)
    if not equals or key.startswith("-"):
        yield argument
    elif isinstance(value, dict) and key not in MAPPINGS_OF_LABELS:
        for name, each in value.items():
            yield from _converted(f"{key}.{name}={each}")
    elif value is None or isinstance(value, bool | list):
        yield f"{key}={json.dumps(_without_whole_floats(value), ensure_ascii=False)}"
    elif isinstance(value, float):
        whole = _without_whole_floats(value)
        yield argument if isinstance(whole, float) else f"{key}={whole}"
    else:
        yield argument


def _python_value(text: str) -> Any:
    """Return the value of a Python literal, or the text itself if it is not a literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _without_whole_floats(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_WHOLE_FLOAT:
        return int(value)
    if isinstance(value, list):
        return [_without_whole_floats(each) for each in value]
    return value
