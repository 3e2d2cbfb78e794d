"""Find optional packages that a config needs, without importing them."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

# The package that a tracker imports. The extra of imdbcls that installs it has the same name.
OF_TRACKERS = {
    "imdbcls.tracking.tensorboard.TensorboardTracker": "tensorboard",
    "imdbcls.tracking.mlflow.MlflowTracker": "mlflow",
}


def missing_packages(config: "Config") -> Iterator[str]:
    """Yield an error message for each chosen tracker whose package is not installed."""
    try:
        chosen = {} if config.tracker.mode == "disabled" else config.tracker.chosen
        needed = {name: OF_TRACKERS.get(section.target) for name, section in chosen.items()}
    except AttributeError:  # a key with a mistake, which is reported elsewhere
        return
    for name, package in needed.items():
        if package is not None and find_spec(package) is None:
            yield f"tracker={name} needs the package {package}: pip install 'imdbcls[{package}]', or leave {name} out."


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
