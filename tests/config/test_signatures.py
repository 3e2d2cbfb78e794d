"""Test that signatures read from source text agree with the imported classes and functions, including types."""

import importlib
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.processes import TINY
from support.runs import ROOT

from imdbcls.config.allowed_targets import TARGETS, is_allowed
from imdbcls.config.allowed_values import allows, describe
from imdbcls.config.checking import require_arguments
from imdbcls.config.overrides import compose
from imdbcls.config.signatures import own_definitions, own_signature, signature_of
from imdbcls.errors import UserError

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


def test_every_shipped_target_is_tested() -> None:
    found = set()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        node: Any = yaml.safe_load(path.read_text()) or {}
        found |= {each["_target_"] for each in (node, node.get("source", {})) if "_target_" in each}
    own = {target for target in found if target.startswith("imdbcls.")}
    assert len(own) >= 15 and own <= set(OWN)


@pytest.mark.parametrize("target", OWN)
def test_source_and_imported_signatures_agree(target: str) -> None:
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    read = own_signature(target)
    if read is None:  # the class inherits its constructor, so it must be imported
        assert inspect.isclass(found) and "__init__" not in vars(found)
        return
    imported = signature_of(found)
    assert list(read.parameters) == list(imported.parameters)
    for name in ("takes_all", "reads_all_layers", "reads_last_layers"):
        assert getattr(read, name) == getattr(imported, name), name
    for parameter, value in read.parameters.items():
        assert value.required == imported.parameters[parameter].required
        assert value.hint in (typing.Any, imported.parameters[parameter].hint), parameter


def test_constraints_are_read_from_source() -> None:
    dropout = own_signature("imdbcls.heads.cls.ClsHead").parameters["dropout"].hint  # type: ignore[union-attr]
    assert describe(dropout) == "a number from 0 to below 1"
    assert allows(0, dropout) and allows(0.5, dropout)
    assert not any(allows(value, dropout) for value in (1, -0.1, "0.5", True, None, [0.1]))
    betas = own_signature("imdbcls.training.optim.Lion").parameters["betas"].hint  # type: ignore[union-attr]
    assert describe(betas) == "a list such as [a,b] in which each item is a number from 0 to below 1"
    assert allows([0.9, 0.99], betas) and not allows([0.9], betas) and not allows([0.9, 2], betas)
    delimiter = own_signature("imdbcls.data.files.read_files").parameters["delimiter"].hint  # type: ignore[union-attr]
    assert describe(delimiter) == "one of auto, comma, semicolon, tab, pipe"  # defined in another module


def test_reading_signatures_imports_nothing_heavy() -> None:
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
def test_targets_outside_imdbcls_have_no_own_signature(target: str) -> None:
    assert own_signature(target) is None


PLUGIN = """
from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, MinLen, MultipleOf
from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from nowhere import Tensor


class Mode(Enum):
    FAST = "fast"


class Broken:
    @classmethod
    def __get_pydantic_core_schema__(cls, *arguments):
        raise RuntimeError


def fail(value):
    raise KeyError(value)


class Head:
    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        unknown: Tensor | None = None,
        width: Annotated[int, Ge(1)] = 2,
        sizes: list[tuple[int, int]] = (),
        even: Annotated[int, MultipleOf(2)] = 2,
        words: Annotated[list[str], MinLen(2)] = (),
        path: Path = Path(),
        mode: Mode = Mode.FAST,
        broken: Broken = None,
        pattern: Annotated[str, Field(pattern="(")] = "",
        validator: Annotated[int, AfterValidator(fail)] = 1,
        bound: Annotated[str, Ge(1)] = "",
    ): ...


class ByPosition:
    reads_all_layers = range(2)  # true, but not True

    def __init__(self, hidden_size, /, num_labels): ...


class Named:
    def __init__(self, *, hidden_size, num_labels, name): ...


class NoSize:
    def __init__(self, *, num_labels): ...


class Unreadable:
    __signature__ = 5
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "odd_heads.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_heads", raising=False)
    return "odd_heads"


def sentences(*texts: str, target: str) -> list[str]:
    """Return the mistakes in the arguments of one of the plugin's heads."""
    config = compose([*TINY, "head=mean", "plugins=[odd_heads]", f"head._target_=odd_heads.{target}", *texts])
    try:
        require_arguments(config)
    except UserError as error:
        return str(error).splitlines()
    return []


ODD_ARGUMENTS = {
    "width=0": "a whole number of at least 1",  # checked although the annotation of `unknown` cannot be evaluated
    "unknown=3": None,
    "sizes=[[1,2]]": None,  # YAML has no tuples
    "sizes=[[1,a]]": "a list such as [a,b]",
    "even=3": "a whole number, a multiple of 2",
    "words=[a]": "a list such as [a,b], of length 2 or more",
    "path=a/b": None,
    "path=[1]": "of type Path",
    "mode=fast": None,
    "mode=slow": "of type Mode",
    # Types that cannot be checked
    "broken=1": None,
    "pattern=a": None,
    "validator=1": None,
    "bound=a": None,
}


@pytest.mark.parametrize("text", ODD_ARGUMENTS)
def test_annotations_of_any_kind_are_read(text: str, plugin: str) -> None:
    allowed = ODD_ARGUMENTS[text]
    expected = [] if allowed is None else [f"head.{text} is not {allowed}."]
    assert sentences(f"+head.{text}", target="Head") == expected


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("ByPosition", "cannot be used here: it must accept hidden_size by keyword."),
        ("NoSize", "cannot be used here: it must accept hidden_size by keyword."),
        ("Named", "cannot be used here: imdbcls itself reads head.name, so rename the parameter."),
        ("Unreadable", "has no readable signature: "),
    ],
)
def test_a_class_that_cannot_be_built_is_reported(target: str, sentence: str, plugin: str) -> None:
    (line,) = sentences(target=target)
    assert line.startswith(f"head._target_=odd_heads.{target} {sentence}")
