"""Is this configuration one that can run? All its mistakes at once, before anything heavy is imported."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError

CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "progress": ("auto", "live", "plain", "none"),
    "data.truncation": ("head", "tail", "head_tail"),
    "tracker.mode": ("auto", "online", "offline", "disabled"),
}
# Key: type, smallest, largest, may be null. Fractions that must stay below 1 say so with the number just below it.
BELOW_ONE = math.nextafter(1.0, 0.0)
NUMBERS: dict[str, tuple[type, float, float, bool]] = {
    "lr": (float, math.nextafter(0.0, 1.0), math.inf, False),
    "batch_size": (int, 1, math.inf, False),
    "eval_batch_size": (int, 1, math.inf, False),
    "epochs": (int, 1, math.inf, False),
    "warmup": (float, 0.0, BELOW_ONE, False),
    "max_length": (int, 8, math.inf, False),
    "seed": (int, 0, 2**63 - 1, False),
    "backbone.dropout": (float, 0.0, BELOW_ONE, True),
    "backbone.attention_dropout": (float, 0.0, BELOW_ONE, True),
    "head.dropout": (float, 0.0, BELOW_ONE, False),
    "data.validation_fraction": (float, math.nextafter(0.0, 1.0), BELOW_ONE, False),
    "data.test_fraction": (float, math.nextafter(0.0, 1.0), BELOW_ONE, False),
    "data.split_seed": (int, 0, 2**63 - 1, False),
    "data.order_seed": (int, 0, 2**63 - 1, False),
    "data.train_limit": (int, 1, math.inf, True),
    "data.validation_limit": (int, 1, math.inf, True),
    "data.test_limit": (int, 1, math.inf, True),
    "trainer.micro_batch_size": (int, 1, math.inf, True),
    "trainer.max_grad_norm": (float, math.nextafter(0.0, 1.0), math.inf, True),
    "trainer.log_every": (int, 1, math.inf, False),
    "checkpoint.every_minutes": (float, math.nextafter(0.0, 1.0), math.inf, True),
}
TORCH_TARGET = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w+")


def validate(config: Mapping[str, Any]) -> None:
    """Raise UserError with every mistake found in a resolved configuration, a line each."""
    mistakes = [*wrong_choices(config), *wrong_numbers(config), *wrong_names(config), *foreign_targets(config)]
    micro = look_up(config, "trainer.micro_batch_size")
    if isinstance(micro, int) and isinstance(config["batch_size"], int) and micro > config["batch_size"]:
        mistakes.append(f"trainer.micro_batch_size={micro} is larger than batch_size={config['batch_size']}.")
    if mistakes:
        raise UserError("\n".join(mistakes))


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; KeyError where the chosen group has no such key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def wrong_choices(config: Mapping[str, Any]) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        try:
            value = look_up(config, key)
        except KeyError:
            continue
        if value not in allowed:
            yield f"{key}={'null' if value is None else value} is not one of {', '.join(allowed)}."


def wrong_numbers(config: Mapping[str, Any]) -> Iterator[str]:
    for key, (kind, low, high, nullable) in NUMBERS.items():
        try:
            value = look_up(config, key)
        except KeyError:
            continue
        if value is None and nullable:
            continue
        is_number = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not is_number or isinstance(value, bool) or not low <= value <= high:
            yield f"{key}={'null' if value is None else value} is not {describe(kind, low, high, nullable)}."


def describe(kind: type, low: float, high: float, nullable: bool) -> str:
    words = "a whole number" if kind is int else "a number"
    if low == math.nextafter(0.0, 1.0):
        words += " above 0"
    elif low > -math.inf:
        words += f" of at least {low:g}" if high >= 2**62 else f" from {low:g}"
    if high == BELOW_ONE:
        words += " and below 1" if low > 0 else " to below 1"
    return words + (" or null" if nullable else "")


def wrong_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Names that become folders must stay inside runs_dir."""
    for key in ("study", "head.name"):
        value = look_up(config, key)
        if not isinstance(value, str) or not re.fullmatch(r"[\w][\w.+-]*", value):
            yield f"{key}={value!r} cannot name a folder: use letters, digits, '.', '_', '+' and '-'."


def foreign_targets(config: Any, path: str = "") -> Iterator[str]:
    """Every `_target_` that is not the project's, one of torch's optimizers or schedulers, or in a named plugin."""
    plugins = config.get("plugins", []) if isinstance(config, Mapping) and not path else []
    yield from _foreign_targets(config, path, tuple(plugins))


def _foreign_targets(node: Any, path: str, plugins: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not is_allowed(value, plugins):
                yield (
                    f"{place}={value} is refused: allowed are imdbcls's own classes and functions, torch.optim's "
                    "optimizers and schedulers, and packages named in plugins=[...]."
                )
            yield from _foreign_targets(value, place, plugins)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _foreign_targets(value, f"{path}[{index}]", plugins)


def is_allowed(target: Any, plugins: tuple[str, ...]) -> bool:
    if not isinstance(target, str):
        return False
    if TORCH_TARGET.fullmatch(target) or target.split(".")[0] in plugins:
        return True
    module, _, name = target.rpartition(".")
    return target.startswith("imdbcls.") and name in names_defined_in(module)


def names_defined_in(module: str) -> set[str]:
    """The classes and functions that one of the project's modules defines itself; what it imports does not count."""
    if not re.fullmatch(r"imdbcls(\.\w+)+", module):
        return set()
    place = Path(__file__).parent.joinpath(*module.split(".")[1:])
    source = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if source is None:
        return set()
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
