"""Keeps off the screen what libraries say to their own developers; errors and our own warnings stay."""

import os
import warnings

from imdbcls import console

# A library reads its variable when it is imported, and what the user has set wins.
_VARIABLES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}


def quiet_libraries() -> None:
    """Silences the warnings and bars of transformers, datasets, huggingface_hub and torch; call it before their import.

    On a terminal, a bar that takes longer than five seconds is shown after all: it may be the download of a model.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if console.is_terminal():
        os.environ.setdefault("TQDM_DELAY", "5")
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(transformers|datasets|huggingface_hub|torch)\b")
