"""The signatures read from source text are those of the imported classes and functions, with their types."""

import importlib
import inspect
import subprocess
import sys
import typing
from typing import Any

import pytest
import yaml
from support.runs import ROOT

from imdbcls.config.allowed_targets import TARGETS, is_allowed
from imdbcls.config.allowed_values import allows, describe
from imdbcls.config.signatures import own_definitions, own_signature, signature_of

MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for folder in ("heads", "data", "models", "training", "tracking")
    for path in (ROOT / "imdbcls" / folder).rglob("*.py")
    if path.name != "__main__.py"
)
OWN = [
    f"{module}.{name}"
    for module in MODULES
    for name in own_definitions(module)
    if any(is_allowed(place, f"{module}.{name}", ()) for place in TARGETS)
]


def test_every_shipped_target_is_among_them() -> None:
    found = set()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        node: Any = yaml.safe_load(path.read_text()) or {}
        found |= {each["_target_"] for each in (node, node.get("source", {})) if "_target_" in each}
    own = {target for target in found if target.startswith("imdbcls.")}
    assert len(own) >= 15 and own <= set(OWN)


@pytest.mark.parametrize("target", OWN)
def test_the_text_says_what_the_object_does(target: str) -> None:
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    read = own_signature(target)
    if read is None:  # inherits its constructor, so it is imported to be checked
        assert inspect.isclass(found) and "__init__" not in vars(found)
        return
    imported = signature_of(found)
    assert list(read.parameters) == list(imported.parameters)
    assert (read.takes_all, read.reads_all_layers) == (imported.takes_all, imported.reads_all_layers)
    for parameter, value in read.parameters.items():
        assert value.required == imported.parameters[parameter].required
        assert value.hint in (typing.Any, imported.parameters[parameter].hint), parameter


def test_constraints_survive() -> None:
    dropout = own_signature("imdbcls.heads.cls.ClsHead").parameters["dropout"].hint  # type: ignore[union-attr]
    assert describe(dropout) == "a number from 0 to below 1"
    assert allows(0, dropout) and allows(0.5, dropout)
    assert not any(allows(value, dropout) for value in (1, -0.1, "0.5", True, None, [0.1]))
    betas = own_signature("imdbcls.training.optim.Lion").parameters["betas"].hint  # type: ignore[union-attr]
    assert describe(betas) == "a list, [a,b], each a number from 0 to below 1"
    assert allows([0.9, 0.99], betas) and not allows([0.9], betas) and not allows([0.9, 2], betas)
    delimiter = own_signature("imdbcls.data.files.read_files").parameters["delimiter"].hint  # type: ignore[union-attr]
    assert describe(delimiter) == "one of auto, comma, semicolon, tab, pipe"  # defined in another module


def test_nothing_is_imported_to_read_them() -> None:
    code = (
        "import sys; from imdbcls.config.signatures import own_signature\n"
        f"assert all(own_signature(target) for target in {[t for t in OWN if own_signature(t)]!r})\n"
        "print({'torch', 'transformers', 'pyarrow', 'wandb'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize(
    "target", ["os.system", "imdbcls", "imdbcls.heads.nowhere.Head", "imdbcls.heads.cls.nn", "", "a/b.C"]
)
def test_what_is_not_ours_has_none(target: str) -> None:
    assert own_signature(target) is None
