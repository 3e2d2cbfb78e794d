"""Load the templates, styles and scripts of the HTML pages. Other packages also use them for their pages."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

VIEWS = "imdbcls.comparison.views"


def templates(package: str = VIEWS) -> Environment:
    """Return the templates in a package. All values are escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment


def packaged(name: str, package: str = VIEWS) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def source_hash(source: str) -> str:
    """Return the hash that the content security policy needs to allow an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
