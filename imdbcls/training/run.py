"""The finished parts of one training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imdbcls.data.batches import SplitBatches
from imdbcls.data.documents import Corpus
from imdbcls.data.token_counts import TokenCounts
from imdbcls.data.tokens import Tokens
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.device import Hardware
from imdbcls.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """Everything that one training run consists of; `imdbcls.build.build_run` makes it.

    `tokens` and `token_counts` are by split: `train`, `validation`, `test`. `environment` is what can change the
    last bits of the result besides the config and the data.
    """

    config: Mapping[str, Any]
    folder: RunFolder
    hardware: Hardware
    corpus: Corpus
    backbone: Backbone
    tokens: Mapping[str, Tokens]
    token_counts: Mapping[str, TokenCounts]
    batches: SplitBatches
    environment: Mapping[str, str]
    trainer: Trainer

    @property
    def model(self) -> Classifier:
        """The model that is evaluated and kept."""
        return self.trainer.scored.model
