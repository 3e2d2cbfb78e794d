"""Check that the code and its config files come from the same clone, even if several clones share one environment."""

from importlib.util import find_spec
from pathlib import Path

from imdbcls.errors import UserError

CONF = "imdbcls.conf"


def require_one_installation() -> None:
    """Raise UserError if the package and `imdbcls.conf` come from different clones.

    In a clone, `imdbcls.conf` is the folder `conf/` next to the package. In a wheel, it is inside the package.
    """
    code = Path(__file__).resolve().parents[1]
    spec = find_spec(CONF)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{CONF} is not installed: run `pip install -e .` in {code.parent}.")
    found = Path(next(iter(spec.submodule_search_locations))).resolve()
    if found not in (code / "conf", code.parent / "conf"):
        raise UserError(
            f"imdbcls is imported from {code.parent}, but its config files are from {found.parent}. Run the command in "
            f"{found.parent}, or run `pip install -e .` in {code.parent}."
        )
