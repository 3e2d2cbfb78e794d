"""Write results as standard JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(content: Mapping[str, Any], indent: int | None = None) -> str:
    """Return standard JSON. NaN and infinity become null: AUROC, for example, is NaN if a class does not occur."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=indent, allow_nan=False)
