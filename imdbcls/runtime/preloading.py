"""Import modules before several threads, or functions with a time limit, use them."""

import contextlib
from collections.abc import Iterable
from importlib import import_module


def preload(modules: Iterable[str]) -> None:
    """Import modules whose import takes seconds. Suppress errors: the code that uses a module raises them again.

    A time limit for a server then does not include the import. Also, two threads never import a module at the same
    time, which could give one of the threads a partly initialized module.
    """
    for module in modules:
        with contextlib.suppress(Exception):
            import_module(module)
