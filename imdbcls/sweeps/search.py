"""The value that a sweeper such as Hydra's Optuna sweeper optimises."""

import math
from collections.abc import Mapping
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.selection import metric_of


def objective_of(result: Mapping[str, Any]) -> float:
    """Return the validation score of a finished run, in the metric that selected its best epoch.

    Raise UserError if the score is undefined, as AUROC is for a single class.
    """
    key = f"val/{metric_of(result)}"
    value = result.get(key)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{result.get('name')} has no {key} to optimise: {key} is undefined. Choose another metric.")
    return float(value)
