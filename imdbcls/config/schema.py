"""The typed schema of a config: type, range, choices, unit and exclusions of every key of `conf/config.yaml`.

Defaults and the descriptions for `--help` are in the YAML files. A section with a `_target_` (a head, an optimizer, a
source) also contains the arguments of the class or function that `_target_` names. The signature of this constructor
is their schema (`imdbcls.config.signatures`), so a new head needs no change here.

Types carry markers. `doc` and `Unit` appear in error messages. The others have docstrings below: `Neutral`, `SeedKey`,
`Passed`, `Copied`, `NoEffect` and `AddedLater`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

from annotated_types import Ge, Gt, Le, Lt, MinLen, Unit, doc
from omegaconf import OmegaConf
from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from imdbcls.config.choices import Device, MetricName, Precision, TrackerMode, Truncation
from imdbcls.errors import UserError
from imdbcls.runtime.progress import ProgressMode

MAX_COUNT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_LENGTH = 2**20  # tokens; the backbone's own limit is checked separately

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


@dataclass(frozen=True)
class NoEffect:
    """A marker: the key has no effect if `when` returns true for the value of the dotted key `other`."""

    other: str
    when: Callable[[Any], bool]


class Neutral:
    """A marker: the key cannot change a result, so configs that differ only in it describe the same run."""


class SeedKey:
    """A marker: the key is a seed, so runs that differ only in it belong to one group."""


class Passed:
    """A marker: the key is declared here and also an argument of the section's constructor."""


class Copied:
    """A marker: other keys contain copies of the key's value, such as `optimizer.lr`, which is `${lr}` in YAML."""


@dataclass(frozen=True)
class AddedLater:
    """A marker: earlier versions did not have the key and behaved as with `value`.

    A key with this value is not part of a config's hashes, so the names of earlier runs stay valid. In the config of an
    earlier run, the key has this value.
    """

    value: Any


def without_controls(text: str) -> str:
    assert not CONTROLS.search(text)
    return text


Count = Annotated[int, Ge(1), Le(MAX_COUNT)]
Seed = Annotated[int, Ge(0), Le(MAX_SEED)]
Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[Finite, Gt(0)]
NonNegative = Annotated[Finite, Ge(0)]
Probability = Annotated[Finite, Ge(0), Lt(1)]
Fraction = Annotated[Finite, Gt(0), Lt(1)]
Name = Annotated[str, MinLen(1), AfterValidator(without_controls), doc("a name (not empty, no control characters)")]
FolderName = Annotated[
    str,
    Field(pattern=r"^\w[\w.+-]{0,99}$"),
    doc("a folder name: use up to 100 letters, digits, '.', '_', '+' and '-', and start with a letter, a digit or '_'"),
]


class Section(BaseModel):
    """A section of the config: a mapping with a fixed set of keys, or with further sections under any name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    member: ClassVar[type["Section"] | None] = None  # the type of the further sections, if they are allowed

    def plain(self) -> dict[str, Any]:
        """Return the section as nested built-in values, with the same keys as in YAML."""
        return self.model_dump(by_alias=True)


class Built(Section):
    """A section that describes one object: `_target_` names its constructor, and further keys are its arguments."""

    model_config = ConfigDict(extra="allow")
    given: ClassVar[frozenset[str]] = frozenset()  # arguments that the builder adds
    by_position: ClassVar[frozenset[str]] = frozenset()  # arguments in `given` that the builder passes by position
    offered: ClassVar[frozenset[str]] = frozenset()  # arguments that the builder adds if the constructor has them

    target: Annotated[str, Field(alias="_target_")]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments from the config, by parameter name."""
        extra = {key: value for key, value in (self.model_extra or {}).items() if key not in HYDRA_KEYS}
        return {**{key: getattr(self, key) for key in passed_keys(type(self))}, **extra}

    @property
    def node(self) -> dict[str, Any]:
        """The input for Hydra's `instantiate`: the target, Hydra's own keys and the arguments."""
        special = {key: value for key, value in (self.model_extra or {}).items() if key in HYDRA_KEYS}
        return {"_target_": self.target, **special, **self.arguments}


class BackboneConfig(Built):
    name: Annotated[Name, Passed]
    recommended_lr: Annotated[Positive, Neutral, AddedLater(2e-5)]
    pretrained: Annotated[bool, Passed]
    dropout: Annotated[Probability | None, Passed]
    attention_dropout: Annotated[Probability | None, Passed]
    freeze: Annotated[
        bool | Annotated[int, Ge(0)],
        doc("false, true (the entire encoder) or a whole number of layers, counted from the lowest"),
    ]
    cache: bool
    cache_gb: Annotated[Positive, Unit("gigabytes"), Neutral]
    lora_rank: Count | None
    reinit_layers: Annotated[int, Ge(0), Le(MAX_COUNT), Unit("layers"), AddedLater(0)]
    gradient_checkpointing: bool
    fast: Annotated[bool, Passed]


class HeadConfig(Built):
    given: ClassVar[frozenset[str]] = frozenset({"hidden_size", "num_labels"})

    name: FolderName


class SourceConfig(Built):
    pass


class DataConfig(Section):
    """The data section. Further keys, such as the columns of `data=files`, are read by interpolations in `source`.

    `added_later` has the further keys that earlier versions did not have, with the values that have no effect. A key
    with this value is left out of hashes, like a key with the value in its marker `AddedLater`.
    """

    added_later: ClassVar[Mapping[str, Any]] = {"encoding": "auto", "text_separator": " ", "pair_column": None}

    model_config = ConfigDict(extra="allow")

    name: Name
    source: SourceConfig
    validation_fraction: Annotated[
        Fraction,
        NoEffect("data.validation", lambda value: value is not None),
        NoEffect("data.validation_split", lambda value: value is not None),
        NoEffect("data.validate_on_train", bool),
    ]
    test_fraction: Annotated[
        Fraction,
        NoEffect("data.test", lambda value: value is not None),
        NoEffect("data.test_split", lambda value: value is not None),
    ]
    split_seed: Seed
    order_seed: Annotated[Seed, SeedKey]
    group_by_length: bool
    train_limit: Annotated[Count | Fraction | None, Unit("documents")]
    validation_limit: Annotated[Count | Fraction | None, Unit("documents"), NoEffect("data.validate_on_train", bool)]
    test_limit: Annotated[Count | Fraction | None, Unit("documents")]
    validate_on_train: Annotated[bool, AddedLater(False)]
    truncation: Truncation
    window_overlap: Annotated[Finite, Ge(0), Le(0.9), NoEffect("data.truncation", lambda value: value != "windows")]
    max_windows: Annotated[Count, NoEffect("data.truncation", lambda value: value != "windows")]
    cache_dir: Annotated[Name | None, Neutral]

    @property
    def reads_pairs(self) -> bool:
        """Whether a document is a pair of texts (`data.pair_column`)."""
        return self.source.arguments.get("pair_column") is not None


class LossConfig(Built):
    given: ClassVar[frozenset[str]] = frozenset({"class_weights_C"})

    label_smoothing: Annotated[Probability, Passed]
    class_weights: Annotated[
        Literal["auto"] | Annotated[list[Positive], MinLen(1)] | Annotated[dict[str, Positive], MinLen(1)] | None,
        doc("null, auto, or one number above 0 per class, such as [1,5] or {neg: 1, pos: 5}"),
    ]
    r_drop: NonNegative
    dropout_samples: Annotated[Count, AddedLater(1)]
    sample_dropout: Annotated[Fraction, NoEffect("loss.dropout_samples", lambda value: value == 1), AddedLater(0.5)]


class OptimizerConfig(Built):
    given: ClassVar[frozenset[str]] = frozenset({"params"})
    by_position: ClassVar[frozenset[str]] = frozenset({"params"})

    head_lr: Positive
    layer_decay: Annotated[Finite, Gt(0), Le(1)]


class ScheduleConfig(Built):
    given: ClassVar[frozenset[str]] = frozenset({"optimizer", "num_steps", "num_warmup_steps"})
    by_position: ClassVar[frozenset[str]] = frozenset({"optimizer"})


class OneTrackerConfig(Built):
    offered: ClassVar[frozenset[str]] = frozenset(
        {"identity", "config", "folder", "resumed_step", "mode", "project", "entity", "tags", "notes"}
    )


class TrackerConfig(Section):
    """The keys that all trackers share, and a section for each chosen tracker, such as `tracker.wandb`."""

    model_config = ConfigDict(extra="allow")
    member: ClassVar[type[Section] | None] = OneTrackerConfig
    __pydantic_extra__: dict[str, OneTrackerConfig]

    mode: TrackerMode
    project: Name | None
    entity: Name | None
    tags: list[str | int | float]
    notes: str | None

    @property
    def shared(self) -> dict[str, Any]:
        """The values of the shared keys."""
        return {key: getattr(self, key) for key in type(self).model_fields}

    @property
    def chosen(self) -> dict[str, OneTrackerConfig]:
        """The section of each chosen tracker by name; empty with `tracker=none`."""
        return dict(self.model_extra or {})


class TrainerConfig(Section):
    micro_batch_size: Annotated[Count | None, Unit("documents")]
    max_grad_norm: Positive | None
    log_every: Annotated[Count, Unit("steps"), Neutral]
    patience: Annotated[Count | None, Unit("epochs")]
    ema_decay: Fraction | None
    score_test_each_epoch: bool
    swa_start: Annotated[Fraction | None, AddedLater(None)]
    greedy_soup: Annotated[bool, AddedLater(False)]
    head_first_epochs: Annotated[int, Ge(0), Le(MAX_COUNT), Unit("epochs"), AddedLater(0)]
    head_first_lr: Annotated[
        Positive, NoEffect("trainer.head_first_epochs", lambda value: value == 0), AddedLater(0.001)
    ]
    profile_steps: Annotated[Count | None, Unit("steps"), Neutral, AddedLater(None)]


class CheckpointConfig(Section):
    every_minutes: Annotated[Positive | None, Unit("minutes")]


class Config(Section):
    """The resolved, valid config of one run, with typed attributes such as `config.lr` and `config.head.name`.

    Create one with `imdbcls.compose`; `print(config)` shows it as YAML. It is immutable: `with_changes` returns a
    modified copy.
    """

    lr: Annotated[Positive, Copied]
    batch_size: Annotated[Count, Unit("documents")]
    eval_batch_size: Annotated[Count | None, Unit("documents")]
    epochs: Count
    metric: Annotated[MetricName, AddedLater("accuracy")]
    warmup: Probability
    max_length: Annotated[int, Ge(8), Le(MAX_LENGTH), Unit("tokens"), Copied]
    seed: Annotated[Seed, SeedKey, Copied]
    precision: Precision
    device: Device
    deterministic: bool
    compile: bool
    jobs: Annotated[Count | Literal["auto"], Neutral]
    study: Annotated[FolderName, Neutral]
    backbone: BackboneConfig
    head: HeadConfig
    data: DataConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    tracker: Annotated[TrackerConfig, Neutral]
    trainer: TrainerConfig
    checkpoint: Annotated[CheckpointConfig, Neutral]
    progress: Annotated[ProgressMode, Neutral]
    runs_dir: Annotated[Name, Neutral]
    plugins: Annotated[list[str], Neutral]

    def __str__(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.plain()))

    def __repr__(self) -> str:
        return f"Config({str(self.folder)!r}; print it for all keys)"

    @property
    def folder(self) -> Path:
        """The run folder of this config, `runs/<study>/<name>`; equal configs have the same folder."""
        from imdbcls.runs.folder import run_folder

        return run_folder(self).path

    @property
    def uses_feature_cache(self) -> bool:
        """Whether the encoder runs once over each document, and training reads its output from the feature cache.

        With `trainer.head_first_epochs`, this is the case only in the epochs that train the head.
        """
        return self.backbone.cache and (self.backbone.freeze is True or self.trainer.head_first_epochs > 0)

    def with_changes(self, **values: Any) -> "Config":
        """Return a copy with other values for some keys; a mapping for a section is merged into the section.

        Only types and ranges are checked here; `imdbcls.run` checks everything else. Raise UserError for wrong values,
        and for a key that other keys have copied, such as `lr`, because the copies would keep the old value.
        """
        changed = self.plain()
        for key, value in values.items():
            if Copied in getattr(type(self).model_fields.get(key), "metadata", ()) and value != changed[key]:
                raise UserError(
                    f"{key}={value}: other keys of this config contain copies of {key}. Compose a new config with "
                    f"imdbcls.compose(..., '{key}={value}')."
                )
            is_merged = isinstance(getattr(self, key, None), Section) and isinstance(value, Mapping)
            changed[key] = merged(getattr(self, key), value) if is_merged else value
        try:
            return type(self).model_validate(changed)
        except ValidationError as error:
            keys = dict.fromkeys(".".join(map(str, each["loc"][:2])) for each in error.errors())
            raise UserError(
                *(
                    f"with_changes: {key} does not exist or has a wrong value. See python -m imdbcls.train --help."
                    for key in keys
                )
            ) from None

    def choices(self, *, seeds: bool = True) -> dict[str, Any]:
        """Return the nested values of the keys that can change a result; with `seeds=False`, also leave out seeds.

        A key is also left out if it has the value in its marker `AddedLater`. So is `jobs`, although the number of
        threads per job can change the last bits of a result.
        """
        values = without_marked(self, self.plain(), (Neutral,) if seeds else (Neutral, SeedKey))
        for key, value in DataConfig.added_later.items():
            for section in (values["data"], values["data"]["source"]):
                if section.get(key, ...) == value:
                    del section[key]
        return values


def without_marked(section: Section, values: dict[str, Any], markers: tuple[type, ...]) -> dict[str, Any]:
    """Remove the keys that have one of the markers from a section's values, in place, and return the values.

    Also remove each key that has the value in its marker `AddedLater`.
    """
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if any(marker in field.metadata for marker in markers) or AddedLater(value) in field.metadata:
            del values[field.alias or name]
        elif isinstance(value, Section):
            without_marked(value, values[name], markers)
    return values


def with_later_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys that are newer than a run's config, each with the value in its marker `AddedLater`."""
    renamed = {"tracker": named_tracker(values["tracker"])} if "tracker" in values else {}
    return with_later_keys_of(Config, {**values, **renamed})


def with_later_keys_of(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            if isinstance(found.get(name), Mapping):
                found[name] = with_later_keys_of(field.annotation, found[name])
        else:
            for marker in (each for each in field.metadata if isinstance(each, AddedLater)):
                found.setdefault(name, marker.value)
    return found


def named_tracker(tracker: Any) -> Any:
    """Return the tracker section of a run's config in the present form, in which each tracker has its own section.

    Earlier versions had one tracker, whose `_target_` and arguments were the keys of `tracker` itself.
    """
    if not isinstance(tracker, Mapping) or "_target_" not in tracker:
        return tracker
    given = dict(tracker)
    shared: dict[str, Any] = {"mode": "auto", "project": None, "entity": None, "tags": [], "notes": None}
    shared |= {key: given.pop(key) for key in shared if key in given}
    if given["_target_"] == "imdbcls.tracking.none.NoTracker":
        return shared
    if given["_target_"] == "imdbcls.tracking.run.WandbTracker":
        return {**shared, "wandb": {**given, "_target_": "imdbcls.tracking.wandb.WandbTracker"}}
    return {**shared, "own": given}


def merged(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section with other values for some keys; sections in it are merged, too."""
    found = section.plain()
    for key, value in values.items():
        inner = getattr(section, key, None)
        found[key] = merged(inner, value) if isinstance(inner, Section) and isinstance(value, Mapping) else value
    return found


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Return whether a field's type is a section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def passed_keys(section: type[Built]) -> Iterator[str]:
    """Yield the declared keys of a section that are also arguments of its constructor."""
    return (name for name, field in section.model_fields.items() if Passed in field.metadata)


def declared(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield the dotted name, the type and the markers of every declared key that is not a section."""
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from declared(field.annotation, f"{prefix}{name}.")
        elif name != "target":
            yield f"{prefix}{name}", field.annotation, tuple(field.metadata)


def section_type(section: type[Section], key: str) -> type[Section] | None:
    """Return the type of the section with this name in another section; None if the key cannot be a section."""
    field = next((each for name, each in section.model_fields.items() if key in (each.alias, name)), None)
    if field is None:
        return section.member
    return field.annotation if is_section(field.annotation) else None


def built_sections(section: Section, prefix: str = "") -> Iterator[tuple[str, Built]]:
    """Yield the dotted name and the values of every section of a config that has a `_target_`."""
    values = {**section.__dict__, **(section.model_extra or {})}
    for name, value in values.items():
        if isinstance(value, Built):
            yield f"{prefix}{name}", value
        if isinstance(value, Section):
            yield from built_sections(value, f"{prefix}{name}.")


def lora_freezes(config: Config) -> Iterator[str]:
    rank, frozen = config.backbone.lora_rank, config.backbone.freeze
    if rank is not None and frozen is not False:
        yield (
            f"backbone.lora_rank={rank} and backbone.freeze={spelled(frozen)} cannot be combined: LoRA already freezes "
            "the encoder. Leave out backbone.freeze."
        )


def reinitialized_layers_are_trained(config: Config) -> Iterator[str]:
    num_layers, rank = config.backbone.reinit_layers, config.backbone.lora_rank
    if num_layers == 0:
        return
    refused = f"backbone.reinit_layers={num_layers} and"
    if not config.backbone.pretrained:
        yield f"{refused} backbone.pretrained=false cannot be combined: all layers already have new random weights."
    if config.backbone.freeze is True:
        yield f"{refused} backbone.freeze=true cannot be combined: the new random layers would not be trained."
    if rank is not None:
        yield (
            f"{refused} backbone.lora_rank={rank} cannot be combined: LoRA would freeze the new random layers and "
            "train only a low-rank update of them."
        )


def one_average_of_weights(config: Config) -> Iterator[str]:
    trainer = config.trainer
    averages = {
        "ema_decay": trainer.ema_decay,
        "swa_start": trainer.swa_start,
        "greedy_soup": trainer.greedy_soup or None,
    }
    given = [f"trainer.{name}={spelled(value)}" for name, value in averages.items() if value is not None]
    if len(given) > 1:
        yield (
            f"{' and '.join(given)} cannot be combined: each replaces the evaluated weights by an average. Set one of "
            "them."
        )
    if trainer.swa_start is not None and trainer.patience is not None:
        yield (
            f"trainer.swa_start={trainer.swa_start:g} and trainer.patience={trainer.patience} cannot be combined: "
            "training could stop before the average starts. Leave out trainer.patience."
        )
    if trainer.greedy_soup and config.epochs == 1:
        yield "trainer.greedy_soup=true needs at least two epochs, because it averages their weights. Increase epochs."


def head_first_leaves_epochs(config: Config) -> Iterator[str]:
    num_epochs, start = config.trainer.head_first_epochs, config.trainer.swa_start
    if num_epochs == 0:
        return
    named = f"trainer.head_first_epochs={num_epochs}"
    if num_epochs >= config.epochs:
        yield (
            f"{named} leaves no epoch of epochs={config.epochs} that trains all weights. Increase epochs, or train "
            "only the head with backbone.freeze=true."
        )
    if config.backbone.freeze is True:
        yield f"{named} and backbone.freeze=true cannot be combined: all epochs already train only the head."
    if config.backbone.reinit_layers > 0:
        yield (
            f"{named} and backbone.reinit_layers={config.backbone.reinit_layers} cannot be combined: the head would be "
            "trained on the output of random layers."
        )
    if config.compile:
        yield (
            f"{named} and compile=true cannot be combined: the compiled encoder would not be the same in all epochs. "
            "Leave out compile."
        )
    if start is not None and start * config.epochs < num_epochs:
        yield (
            f"{named} and trainer.swa_start={start:g} cannot be combined with epochs={config.epochs}: the average "
            "would begin in the epochs that train only the head. Increase trainer.swa_start."
        )


def frozen_needs_no_checkpointing(config: Config) -> Iterator[str]:
    if config.backbone.freeze is True and config.backbone.gradient_checkpointing:
        yield (
            "backbone.gradient_checkpointing=true saves no memory with backbone.freeze=true, because no activations "
            "are stored. Leave it out."
        )


def frozen_has_no_layer_decay(config: Config) -> Iterator[str]:
    if config.backbone.freeze is True and config.optimizer.layer_decay != 1:
        yield "optimizer.layer_decay has no effect with backbone.freeze=true: no layer is trained."


def each_position_has_a_weight(config: Config) -> Iterator[str]:
    positions = config.head.arguments.get("num_positions")
    if isinstance(positions, int) and 0 < positions < config.max_length:
        yield (
            f"head.num_positions={positions} is less than max_length={config.max_length}: each token position needs a "
            "weight."
        )


def r_drop_needs_dropout(config: Config) -> Iterator[str]:
    dropouts = [config.head.arguments.get("dropout", 0)]
    if config.backbone.freeze is not True:  # a frozen encoder has no dropout
        dropouts += [config.backbone.dropout, config.backbone.attention_dropout]
    if config.loss.r_drop > 0 and all(dropout == 0 for dropout in dropouts):
        yield (
            f"loss.r_drop={config.loss.r_drop:g} has no effect without dropout in the trained layers: both passes are "
            "identical."
        )


def one_kind_of_dropout_samples(config: Config) -> Iterator[str]:
    if config.loss.r_drop > 0 and config.loss.dropout_samples > 1:
        yield (
            f"loss.r_drop={config.loss.r_drop:g} and loss.dropout_samples={config.loss.dropout_samples} cannot be "
            "combined: both compare several dropout masks. Leave out one of them."
        )


def pairs_have_no_windows(config: Config) -> Iterator[str]:
    if config.data.reads_pairs and config.data.truncation == "windows":
        yield (
            "data.pair_column and data.truncation=windows cannot be combined: a window would separate the texts of a "
            "pair. Use data.truncation=head, or join the texts with data.text_column=[first,second]."
        )


def micro_batch_fits(config: Config) -> Iterator[str]:
    micro = config.trainer.micro_batch_size
    if micro is not None and micro > config.batch_size:
        yield f"trainer.micro_batch_size={micro} is larger than batch_size={config.batch_size}."


# Rules against combinations of values that are valid individually.
EXCLUSIONS: tuple[Callable[[Config], Iterator[str]], ...] = (
    lora_freezes,
    reinitialized_layers_are_trained,
    one_average_of_weights,
    head_first_leaves_epochs,
    frozen_needs_no_checkpointing,
    frozen_has_no_layer_decay,
    each_position_has_a_weight,
    r_drop_needs_dropout,
    one_kind_of_dropout_samples,
    pairs_have_no_windows,
    micro_batch_fits,
)


def spelled(value: Any) -> str:
    """Return a value as a string, with flags and null spelled as in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def partial_config(
    section: type[Section], values: Mapping[str, Any], wrong: set[tuple[str, ...]], path: tuple[str, ...] = ()
) -> Any:
    """Build a section without validation and without its wrong keys; reading a wrong key raises AttributeError."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if (*path, key) not in wrong:
            kind = section_type(section, key)
            if kind is not None and isinstance(value, Mapping):
                value = partial_config(kind, value, wrong, (*path, key))
            found[key] = value
    return section.model_construct(**found)
