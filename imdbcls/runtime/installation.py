"""Check that the code and its configuration belong together: two clones with one environment may mix."""

from importlib.util import find_spec
from pathlib import Path

from imdbcls.errors import UserError

CONF = "imdbcls.conf"


def require_one_installation() -> None:
    """Raise UserError where the package and `imdbcls.conf` come from different clones.

    In a clone, `imdbcls.conf` is the folder `conf/` next to the package; in a wheel it is inside the package.
    """
    code = Path(__file__).resolve().parents[1]
    spec = find_spec(CONF)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{CONF} is not installed: run `pip install -e .` in {code.parent}.")
    found = Path(next(iter(spec.submodule_search_locations))).resolve()
    if found not in (code / "conf", code.parent / "conf"):
        raise UserError(
            f"imdbcls comes from {code.parent} and its configuration from {found.parent}: two copies are mixed. Start "
            f"the command in {found.parent}, or run `pip install -e .` in {code.parent}."
        )
