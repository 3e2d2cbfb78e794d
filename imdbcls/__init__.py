"""Compare classification heads on the same encoder, and test whether the differences are real.

In Python, for example in a notebook, `imdbcls.run` does the same as `python -m imdbcls.train`:

    import imdbcls

    config = imdbcls.compose("experiment=quickstart", "head=lstm")
    run = imdbcls.run(config)  # or imdbcls.load_run("runs/quickstart/lstm-s0-1a2b3c4d")
    run.result["test/accuracy"], run.predictions("test").probabilities
    run.predict(["A quiet, patient film.", "Two hours that I want back."]).names
    run.metrics, run.plot(), run.predictions("test").to_pandas()
    imdbcls.load_study("runs/heads").to_pandas()  # one row per run
    imdbcls.load_ensemble(["runs/heads/lstm-s0-1a2b3c4d", "runs/heads/lstm-s1-5e6f7a8b"])  # averages probabilities
    imdbcls.compare_runs("runs/heads").pairs  # or a file of predictions from any tool
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imdbcls.api import (
        Config,
        Ensemble,
        FinishedRun,
        FinishedStudy,
        Predictions,
        compare_runs,
        compose,
        load_ensemble,
        load_run,
        load_study,
        run,
    )
    from imdbcls.errors import UserError

__all__ = [
    "Config",
    "Ensemble",
    "FinishedRun",
    "FinishedStudy",
    "Predictions",
    "UserError",
    "compare_runs",
    "compose",
    "load_ensemble",
    "load_run",
    "load_study",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import imdbcls` itself imports nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "UserError":
        from imdbcls.errors import UserError

        return UserError
    from imdbcls import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
