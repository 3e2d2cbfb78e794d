"""Collect the source code of heads for one modelling file that needs only PyTorch."""

import ast
import inspect
import sys
from types import ModuleType
from typing import Any

from imdbcls.errors import UserError
from imdbcls.heads import pooling

AVAILABLE = {"torch", *sys.stdlib_module_names}
REMOVED = {"annotated_types", pooling.__name__}  # imports to leave out; the file contains the code of `pooling`


def head_source(*heads: Any) -> tuple[list[str], str]:
    """Return the import statements and the code of heads and their helpers.

    Raise UserError if a head's module needs more than PyTorch, the standard library and `imdbcls.heads.pooling`, or if
    two modules define the same name.
    """
    modules: dict[ModuleType, str] = {pooling: type(heads[0]).__name__}
    for head in heads:
        own = inspect.getmodule(type(head))
        assert own is not None
        modules.setdefault(own, type(head).__name__)
    imports: dict[str, None] = {}
    defined: dict[str, str] = {}
    code = []
    for module, head_name in modules.items():
        found, rest = split_imports(module, head_name)
        imports |= dict.fromkeys(found)
        for name in defined_names(rest):
            if defined.setdefault(name, module.__name__) != module.__name__:
                raise UserError(
                    f"The modules {defined[name]} and {module.__name__} both define {name}, so one modelling file "
                    f"cannot contain both heads. Rename {name} in one of the modules, or use --to onnx or torch."
                )
        code.append(rest)
    return sorted(imports), "\n\n\n".join(code)


def defined_names(code: str) -> list[str]:
    """Return the names that a module defines at its top level."""
    names: list[str] = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return names


def split_imports(module: ModuleType, head: str) -> tuple[list[str], str]:
    """Return those imports of a module that the modelling file needs, and the code that follows the imports."""
    text = inspect.getsource(module)
    imports, begins = [], None
    for node in ast.parse(text).body:
        names = imported_modules(node)
        if not names:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if begins is None and not is_docstring:
                decorators = getattr(node, "decorator_list", [])
                begins = min([node.lineno, *(each.lineno for each in decorators)])
            continue
        if unavailable := [name for name in names if name.partition(".")[0] not in AVAILABLE and name not in REMOVED]:
            raise UserError(
                f"{head} cannot be exported to huggingface: its module imports {unavailable[0]}, but the exported file "
                f"may import only PyTorch and the standard library. Copy the code that {head} uses into the head's "
                "module, or use --to onnx or torch."
            )
        line = ast.unparse(node)
        if not REMOVED & set(names) and line != "from typing import Annotated":
            imports.append(line)
    assert begins is not None
    lines = "\n".join(text.splitlines()[begins - 1 :])
    return imports, without_annotated(lines).strip()


def without_annotated(code: str) -> str:
    """Replace each `Annotated[T, ...]` with `T`, because only the check of a config needs the ranges of settings."""
    while found := next(filter(is_annotated, ast.walk(ast.parse(code))), None):
        kept = found.slice.elts[0]  # type: ignore[attr-defined]
        code = code.replace(str(ast.get_source_segment(code, found)), str(ast.get_source_segment(code, kept)))
    return code


def is_annotated(node: ast.AST) -> bool:
    """Return whether a node is `Annotated[T, ...]` or `typing.Annotated[T, ...]`."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
        return False
    return "Annotated" in (getattr(node.value, "id", None), getattr(node.value, "attr", None))


def imported_modules(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'.' * node.level}{node.module or ''}"]
    return []
