"""The typed keys of `conf/pretrain.yaml`, which contains their defaults and descriptions."""

from typing import Annotated, ClassVar

from annotated_types import Ge, Le, MinLen, Unit, doc

from imdbcls.config.command_keys import CommandSettings
from imdbcls.config.key_types import MAX_LENGTH, Count, FolderName, Fraction, Name, Positive, Probability
from imdbcls.config.schema import Config, DataConfig, HeadConfig
from imdbcls.config.section import Section

HEAD = {"_target_": "imdbcls.models.masked_lm.MaskedTokenHead", "name": "mlm"}


class MaskingSettings(Section):
    probability: Fraction
    whole_words: bool


class UnlabelledSettings(Section):
    unlabelled: Annotated[Name | Annotated[list[Name], MinLen(1)] | None, doc("a file, a list of files, auto or null")]
    unlabelled_limit: Annotated[Count | Fraction | None, Unit("documents")]


class PretrainSettings(CommandSettings):
    """The keys that only pretraining has, and the keys of training that have a default of their own in pretraining."""

    shared: ClassVar[frozenset[str]] = frozenset({"data"})

    lr: Positive
    batch_size: Annotated[Count, Unit("documents")]
    epochs: Count
    warmup: Probability
    max_length: Annotated[int, Ge(8), Le(MAX_LENGTH), Unit("tokens")]
    study: FolderName
    masking: MaskingSettings
    data: UnlabelledSettings

    @property
    def overrides(self) -> list[str]:
        """The overrides for the keys that a training run also has."""
        keys = ("lr", "batch_size", "epochs", "warmup", "max_length", "study")
        return [f"{key}={getattr(self, key)}" for key in keys]

    def recorded(self, config: Config) -> Config:
        """Return the config that identifies the run, with these settings and the head for masked tokens."""
        own = {"masking": self.masking.plain(), **self.data.plain()}
        data = DataConfig.model_validate({**config.data.plain(), **own})
        return config.model_copy(update={"head": HeadConfig.model_validate(HEAD), "data": data, "metric": "loss"})
