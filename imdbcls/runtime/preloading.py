"""Import modules before several threads, or functions with a time limit, use them."""

import contextlib
from collections.abc import Iterable
from importlib import import_module


def preload(modules: Iterable[str]) -> None:
    """Import modules whose import takes seconds. Suppress errors: the code that uses a module raises them again.

    A time limit for a server then does not include the import. Also, no two threads import a module at the same time:
    one of them can get a partly initialized module.
    """
    for module in modules:
        with contextlib.suppress(Exception):
            import_module(module)
