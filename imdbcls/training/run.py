"""The parts of one training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from imdbcls.config.schema import Config
from imdbcls.data.batches import SplitBatches
from imdbcls.data.card import DataCard, card_of
from imdbcls.data.documents import Corpus
from imdbcls.data.pipeline import Pipeline
from imdbcls.data.token_counts import TokenCounts
from imdbcls.data.tokens import Tokens
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.runs.encoder_source import EncoderSource
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.device import Hardware
from imdbcls.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """Everything that one training run consists of; built by `imdbcls.build.build_run`.

    The keys of `tokens` are `train`, `validation` and `test`. `environment` describes the hardware and software that
    can change the last bits of the result. `encoder_source` is the earlier run at `backbone.path`, if there is one.
    """

    config: Config
    folder: RunFolder
    hardware: Hardware
    corpus: Corpus
    backbone: Backbone
    pipeline: Pipeline
    tokens: Mapping[str, Tokens]
    batches: SplitBatches
    environment: Mapping[str, str]
    trainer: Trainer
    encoder_source: EncoderSource | None

    @property
    def model(self) -> Classifier:
        """The evaluation model. Its weights from the best epoch are saved."""
        return self.trainer.evaluation_model.model

    @cached_property
    def token_counts(self) -> dict[str, TokenCounts]:
        """Token counts of each split, including unknown and truncated tokens."""
        tokenizer = self.backbone.tokenizer
        return {split: self.pipeline.count(tokens, tokenizer) for split, tokens in self.tokens.items()}

    def data_card(self) -> DataCard:
        """Return the data card of the run."""
        names = self.config.data.name, self.backbone.name
        return card_of(self.corpus, self.tokens, self.backbone.tokenizer, self.pipeline, *names)
