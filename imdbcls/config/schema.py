"""The typed schema of a config: the type, range, choices and unit of every key of `conf/config.yaml`.

Defaults and the descriptions for `--help` are in the YAML files. A section with a `_target_` (a head, an optimizer, a
source) also contains the arguments of the class or function that `_target_` names. The signature of this constructor
is their schema (`imdbcls.config.signatures`), so a new head needs no change here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen, Unit, doc
from omegaconf import OmegaConf
from pydantic import ConfigDict, ValidationError

from imdbcls.config.choices import Device, KeptCheckpoints, MetricName, Precision, TrackerMode, Truncation
from imdbcls.config.key_types import (
    MAX_COUNT,
    MAX_LENGTH,
    AddedLater,
    Copied,
    Count,
    Finite,
    FolderName,
    Fraction,
    Name,
    Neutral,
    NoEffect,
    NonNegative,
    Passed,
    Positive,
    Probability,
    Seed,
    SeedKey,
)
from imdbcls.config.section import Built, Section, is_section, merged, without_marked
from imdbcls.errors import UserError
from imdbcls.runtime.progress import ProgressMode


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

    `added_later` has the further keys that earlier versions did not have, each with the value that has no effect. A key
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
        """The section of each chosen tracker, keyed by name; empty with `tracker=none`."""
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
    keep: Annotated[KeptCheckpoints, AddedLater("all")]


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

        With `trainer.head_first_epochs`, this is the case only in the epochs that train only the head.
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

        A key is also left out if it has the value in its marker `AddedLater`. `jobs` is always left out, although the
        number of threads per job can change the last bits of a result.
        """
        values = without_marked(self, self.plain(), (Neutral,) if seeds else (Neutral, SeedKey))
        for key, value in DataConfig.added_later.items():
            for section in (values["data"], values["data"]["source"]):
                if section.get(key, ...) == value:
                    del section[key]
        return values


def declared(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield the dotted name, the type and the markers of every declared key that is not a section."""
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from declared(field.annotation, f"{prefix}{name}.")
        elif name != "target":
            yield f"{prefix}{name}", field.annotation, tuple(field.metadata)
