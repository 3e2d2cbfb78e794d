"""Read the arguments of a `_target_` from its signature: names, types and ranges.

The signatures of imdbcls's own classes and functions are read from their source text. A wrong argument of a head or a
loss is then found before PyTorch is imported. The signatures of PyTorch and plugins are read from the imported objects.
"""

import ast
import builtins
import importlib
import inspect
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PACKAGE = "imdbcls"
PLAIN = ("annotated_types", "collections.abc", "pathlib", "typing")  # modules that define types and are cheap to import
ALL_LAYERS = "num_hidden_states"  # the additional argument of a head with `reads_all_layers`
LAST_LAYERS = "num_layers"  # the setting and attribute of a head with `reads_last_layers`
READS = ("reads_all_layers", "reads_last_layers")


@dataclass(frozen=True)
class Parameter:
    hint: Any = Any  # the type with its constraints; Any if unknown
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of a constructor.

    `takes_all` is true for a constructor with `**kwargs`. `reads_all_layers` and `reads_last_layers` are the class
    attributes of these names, which only classes of heads have; they are false for all other constructors.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    takes_all: bool = False
    reads_all_layers: bool = False
    reads_last_layers: bool = False


def signature_of(found: Any) -> Signature:
    """Return the signature of an imported class or function; raise ValueError or TypeError if it has none."""
    hints = type_hints(found.__init__ if inspect.isclass(found) else found)
    parameters, takes_all = {}, False
    for name, parameter in inspect.signature(found).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            parameters[name] = Parameter(hints.get(name, Any), parameter.default is parameter.empty)
    reads = (getattr(found, name, False) is True for name in READS)
    return Signature(parameters, takes_all, *reads)


def type_hints(function: Any) -> dict[str, Any]:
    """Return the types of a function's parameters, except types that cannot be evaluated."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # a plugin's annotation may fail, such as a name imported only for type checkers
        function = inspect.unwrap(function)
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        single = SimpleNamespace(__annotations__={name: annotation})
        with suppress(Exception):
            hints |= typing.get_type_hints(single, globalns=function.__globals__, include_extras=True)
    return hints


@cache
def own_signature(target: str) -> Signature | None:
    """Return the signature of a class or function of imdbcls without importing it; None if it must be imported."""
    module, _, name = target.rpartition(".")
    node = own_definitions(module).get(name)
    if isinstance(node, ast.FunctionDef):
        return read_signature(node, module)
    if not isinstance(node, ast.ClassDef):
        return None
    body = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if "__init__" not in body:
        return None if node.bases or node.decorator_list else Signature()
    all_layers, last_layers = (sets_true(node, name) for name in READS)
    signature = read_signature(body["__init__"], module, skip=1)
    return replace(signature, reads_all_layers=all_layers, reads_last_layers=last_layers)


def read_signature(node: ast.FunctionDef, module: str, skip: int = 0) -> Signature:
    """Read a signature from a function's syntax tree, without the first `skip` parameters (self)."""
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [
        *list(zip(positional, defaults, strict=True))[skip:],
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    parameters = {
        argument.arg: Parameter(hint_of(argument.annotation, module), default is None) for argument, default in pairs
    }
    return Signature(parameters, node.args.kwarg is not None)


def sets_true(node: ast.ClassDef, name: str) -> bool:
    """Return whether a class body assigns True to a name."""
    for each in node.body:
        targets = (
            each.targets if isinstance(each, ast.Assign) else [each.target] if isinstance(each, ast.AnnAssign) else []
        )
        value = getattr(each, "value", None)
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(value, ast.Constant) and value.value is True
    return False


def hint_of(annotation: ast.expr | None, module: str) -> Any:
    """Evaluate an annotation; return Any if that would need an import, such as for a tensor."""
    if annotation is None:
        return Any
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    try:
        return eval(ast.unparse(annotation), {"__builtins__": {}}, {name: value_of(name, module) for name in names})
    except Exception:
        return Any


def value_of(name: str, module: str) -> Any:
    """Return the type that a name in a module's annotations refers to; raise LookupError if it is not a plain type."""
    tree = syntax_tree(module)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return imported(node.module, alias.name)
        if isinstance(node, ast.Assign) and [name] == [each.id for each in node.targets if isinstance(each, ast.Name)]:
            return hint_of(node.value, module)
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise LookupError(name)


def imported(module: str, name: str) -> Any:
    """Return the object with a given name in a module of imdbcls or in one of the `PLAIN` modules."""
    if module in PLAIN:
        return getattr(importlib.import_module(module), name)
    return value_of(name, module)


@cache
def own_definitions(module: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """Return the classes and functions that a module of imdbcls defines, without those that it imports."""
    tree = syntax_tree(module)
    body = tree.body if tree is not None else []
    return {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@cache
def syntax_tree(module: str) -> ast.Module | None:
    """Parse a module of imdbcls; return None for any other module."""
    first, *parts = module.split(".")
    if first != PACKAGE or not parts or not all(part.isidentifier() for part in parts):
        return None
    place = Path(__file__).parents[1].joinpath(*parts)
    source = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    return None if source is None else ast.parse(source.read_text(encoding="utf-8"))
