"""Is this configuration one that can run? All its mistakes at once, before anything heavy is imported."""

import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from imdbcls.config.allowed_targets import TARGETS, foreign_targets, interpolations, wrong_plugins
from imdbcls.errors import UserError
from imdbcls.printable import shown

CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "progress": ("auto", "live", "plain", "none"),
    "data.truncation": ("head", "tail", "head_tail", "windows"),
    "tracker.mode": ("auto", "online", "offline", "disabled"),
}
FLAGS = (
    "deterministic",
    "compile",
    "backbone.pretrained",
    "backbone.fast",
    "backbone.cache",
    "backbone.gradient_checkpointing",
    "data.group_by_length",
    "trainer.score_test_each_epoch",
)
OF_SEVERAL_KINDS = ("backbone.freeze", "loss.class_weights")  # each has a rule of its own
# Key: type, smallest, largest, may be null. Fractions that must stay below 1 say so with the number just below it.
BELOW_ONE = math.nextafter(1.0, 0.0)
MAX_COUNT = 2**31 - 1
MAX_FLOAT = sys.float_info.max
MAX_LENGTH = 2**20  # tokens; what the backbone takes is checked when it is there
NUMBERS: dict[str, tuple[type, float, float, bool]] = {
    "lr": (float, math.nextafter(0.0, 1.0), MAX_FLOAT, False),
    "batch_size": (int, 1, MAX_COUNT, False),
    "eval_batch_size": (int, 1, MAX_COUNT, True),
    "epochs": (int, 1, MAX_COUNT, False),
    "jobs": (int, 1, MAX_COUNT, False),
    "warmup": (float, 0.0, BELOW_ONE, False),
    "max_length": (int, 8, MAX_LENGTH, False),
    "seed": (int, 0, 2**63 - 1, False),
    "backbone.dropout": (float, 0.0, BELOW_ONE, True),
    "backbone.attention_dropout": (float, 0.0, BELOW_ONE, True),
    "backbone.cache_gb": (float, math.nextafter(0.0, 1.0), MAX_FLOAT, False),
    "backbone.lora_rank": (int, 1, MAX_COUNT, True),
    "head.num_positions": (int, 1, MAX_LENGTH, False),
    "head.dropout": (float, 0.0, BELOW_ONE, False),
    "data.window_overlap": (float, 0.0, 0.9, False),
    "data.max_windows": (int, 1, MAX_COUNT, False),
    "data.validation_fraction": (float, math.nextafter(0.0, 1.0), BELOW_ONE, False),
    "data.test_fraction": (float, math.nextafter(0.0, 1.0), BELOW_ONE, False),
    "data.split_seed": (int, 0, 2**63 - 1, False),
    "data.order_seed": (int, 0, 2**63 - 1, False),
    "data.train_limit": (int, 1, MAX_COUNT, True),
    "data.validation_limit": (int, 1, MAX_COUNT, True),
    "data.test_limit": (int, 1, MAX_COUNT, True),
    "loss.label_smoothing": (float, 0.0, BELOW_ONE, False),
    "loss.r_drop": (float, 0.0, MAX_FLOAT, False),
    "loss.gamma": (float, 0.0, MAX_FLOAT, False),
    "optimizer.head_lr": (float, math.nextafter(0.0, 1.0), MAX_FLOAT, False),
    "optimizer.layer_decay": (float, math.nextafter(0.0, 1.0), 1.0, False),
    "trainer.micro_batch_size": (int, 1, MAX_COUNT, True),
    "trainer.max_grad_norm": (float, math.nextafter(0.0, 1.0), MAX_FLOAT, True),
    "trainer.patience": (int, 1, MAX_COUNT, True),
    "trainer.ema_decay": (float, math.nextafter(0.0, 1.0), BELOW_ONE, True),
    "trainer.log_every": (int, 1, MAX_COUNT, False),
    "checkpoint.every_minutes": (float, math.nextafter(0.0, 1.0), MAX_FLOAT, True),
}
SECTIONS = (*(place for place in TARGETS if "." not in place), "data", "data.source", "trainer", "checkpoint")


def validate(config: Mapping[str, Any]) -> None:
    """Raise UserError with every mistake found in a resolved configuration, a line each."""
    if absent := list(absent_sections(config)):
        raise UserError(*absent)
    mistakes = [
        *absent_knobs(config),
        *wrong_choices(config),
        *wrong_numbers(config),
        *wrong_flags(config),
        *wrong_freeze(config),
        *wrong_class_weights(config),
        *wrong_names(config),
        *wrong_plugins(config),
        *foreign_targets(config),
        *interpolations(config),
        *exclusions(config),
    ]
    micro, batch_size = config["trainer"].get("micro_batch_size"), config.get("batch_size")
    if isinstance(micro, int) and isinstance(batch_size, int) and micro > batch_size:
        mistakes.append(f"trainer.micro_batch_size={micro} is larger than batch_size={config['batch_size']}.")
    if mistakes:
        raise UserError(*mistakes)


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; KeyError where the chosen group has no such key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def absent_sections(config: Mapping[str, Any]) -> Iterator[str]:
    for key in SECTIONS:
        try:
            section = look_up(config, key)
        except KeyError:
            section = None
        if not isinstance(section, Mapping):
            yield f"{key}={shown(section)} is no section of settings."


def absent_knobs(config: Mapping[str, Any]) -> Iterator[str]:
    """What no group brings and every configuration has; only a file from elsewhere can lack it."""
    targets = [f"{place}._target_" for place in TARGETS]
    # Not every head, loss and tracker has the others, and not every run the knob of sweeps, which came later.
    others = ("head.", "loss.gamma", "tracker.", "jobs")
    common = [key for key in (*FLAGS, *CHOICES, *NUMBERS) if not key.startswith(others)]
    for key in ("study", "runs_dir", "data.cache_dir", *OF_SEVERAL_KINDS, *common, *targets):
        try:
            look_up(config, key)
        except KeyError:
            yield f"{key} is missing."


def wrong_choices(config: Mapping[str, Any]) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        try:
            value = look_up(config, key)
        except KeyError:
            continue
        if value not in allowed:
            yield f"{key}={shown(value)} is not one of {', '.join(allowed)}."


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
            yield f"{key}={shown(value)} is not {describe(kind, low, high, nullable)}."


def wrong_flags(config: Mapping[str, Any]) -> Iterator[str]:
    for key in FLAGS:
        try:
            value = look_up(config, key)
        except KeyError:
            continue
        if not isinstance(value, bool):
            yield f"{key}={shown(value)} is neither true nor false."


def wrong_freeze(config: Mapping[str, Any]) -> Iterator[str]:
    """How many layers the backbone has is known when it is there."""
    frozen = config["backbone"].get("freeze")
    if not isinstance(frozen, int) or frozen < 0:
        yield (
            f"backbone.freeze={shown(frozen)} is none of false, true (the whole encoder) and a whole number of layers, "
            "counted from the lowest."
        )


def wrong_class_weights(config: Mapping[str, Any]) -> Iterator[str]:
    wanted = config["loss"].get("class_weights")
    if wanted is None or wanted == "auto":
        return
    weights = wanted.values() if isinstance(wanted, Mapping) else wanted if isinstance(wanted, list | tuple) else []
    if not weights or not all(is_positive(weight) for weight in weights):
        yield (
            f"loss.class_weights={shown(wanted)} is neither null, auto, nor one number above 0 for each class, "
            "as [1,5] or {neg: 1, pos: 5}."
        )


def is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_FLOAT


def exclusions(config: Mapping[str, Any]) -> Iterator[str]:
    """Choices that make no sense together."""
    backbone, head, loss = config["backbone"], config["head"], config["loss"]
    freeze, rank = backbone.get("freeze"), backbone.get("lora_rank")
    if rank is not None and freeze is not False:
        yield f"backbone.lora_rank={shown(rank)} and backbone.freeze={shown(freeze)}: LoRA freezes the encoder itself."
    if freeze is True and backbone.get("gradient_checkpointing") is True:
        yield "backbone.gradient_checkpointing=true saves nothing with backbone.freeze=true: no activation is kept."
    if freeze is True and config["optimizer"].get("layer_decay") != 1:
        yield "optimizer.layer_decay changes nothing with backbone.freeze=true: no layer is trained."
    positions, length = head.get("num_positions"), config.get("max_length")
    if isinstance(positions, int) and isinstance(length, int) and 0 < positions < length:
        yield f"head.num_positions={positions} is less than max_length={length}: each token's position has a weight."
    dropouts = [head.get("dropout", 0)]
    if backbone.get("freeze") is not True:  # which has no dropout
        dropouts += [backbone.get("dropout"), backbone.get("attention_dropout")]
    if is_positive(loss.get("r_drop")) and all(dropout == 0 for dropout in dropouts):
        yield f"loss.r_drop={loss['r_drop']} does nothing without dropout in what is trained: two passes are the same."


def describe(kind: type, low: float, high: float, nullable: bool) -> str:
    words = "a whole number" if kind is int else "a number"
    if low == math.nextafter(0.0, 1.0):
        words += " above 0"
    elif low > -math.inf:
        words += f" of at least {low:g}" if high >= MAX_COUNT else f" from {low:g}"
    if high == BELOW_ONE:
        words += " and below 1" if low > 0 else " to below 1"
    elif high < MAX_COUNT:
        words += f" and at most {high:g}" if low == math.nextafter(0.0, 1.0) else f" to {high:,}"
    return words + (" or null" if nullable else "")


def wrong_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Names that become folders must stay inside runs_dir."""
    for key in ("study", "head.name"):
        try:
            value = look_up(config, key)
        except KeyError:
            value = None
        if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]{0,99}", value):
            yield (
                f"{key}={shown(value)} cannot name a folder: use up to 100 letters, digits, '.', '_', '+' and '-', "
                "a letter or digit first."
            )
    for key in ("runs_dir", "data.name", "backbone.name"):
        try:
            value = look_up(config, key)
        except KeyError:
            value = None
        if not isinstance(value, str) or not value or "\0" in value:
            yield f"{key}={shown(value)} is not a name."
