"""Open a finished run: first its config and result, then its model with the best weights.

A run folder may come from someone else, so nothing in it may choose which code runs or which files are opened. The
config is checked before any heavy import.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.untrusted import require_no_links, tensor_shapes
from imdbcls.runtime.limits import require_address_space
from imdbcls.runtime.model_files import NO_WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imdbcls.config.schema import Config
    from imdbcls.data.documents import Documents
    from imdbcls.data.pipeline import Pipeline
    from imdbcls.data.tokens import PlainTokenizer, Tokens
    from imdbcls.models.backbone import Backbone
    from imdbcls.models.classifier import Classifier
    from imdbcls.runs.predictions import Predictions
    from imdbcls.runtime.device import Hardware

MAX_LISTED = 10  # run names in one error message
SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # names in an untrusted folder that are safe to print


@dataclass(frozen=True)
class FinishedModel:
    """The model of a finished run with its best weights, on the config's device."""

    path: Path
    pipeline: "Pipeline"
    hardware: "Hardware"
    backbone: "Backbone"
    model: "Classifier"
    label_names: tuple[str, ...]
    reads_pairs: bool = False  # whether a document is a pair of texts

    @cached_property
    def tokenizer(self) -> "PlainTokenizer":
        """The tokenizer as `tokenize_in_memory` needs it."""
        from imdbcls.data.tokens import plain_tokenizer

        return plain_tokenizer(self.backbone.tokenizer)

    @cached_property
    def num_special(self) -> int:
        """The number of special tokens in the input of the encoder."""
        from imdbcls.data.tokens import pair_template

        if not self.reads_pairs:
            return len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        template = pair_template(self.backbone.tokenizer)
        return len(template.prefix) + len(template.separator) + len(template.suffix)

    def cut_tokens(self, tokens_N: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Return how many tokens of each document the model does not read.

        `tokens_N` are the numbers of tokens of the documents, including special tokens, as in `Predictions.tokens`.
        """
        from imdbcls.data.token_counts import cut_tokens

        budget = self.pipeline.max_length - self.num_special
        return cut_tokens(tokens_N - self.num_special, budget, self.pipeline.truncation)

    def predict(
        self,
        documents: "Documents",
        on_progress: Callable[[int, int], None] | None = None,
        *,
        cache_tokens: bool = True,
    ) -> "tuple[Predictions, Tokens]":
        """Return the predictions for the documents, and the documents' tokens.

        If `cache_tokens` is true, the tokens are read from the default token cache, or computed and added to it.

        Raise UserError if the model's output is NaN or infinite.
        """
        from imdbcls.data.tokens import joined_pairs, pair_template, tokenize, tokenize_in_memory
        from imdbcls.models.inference import predict_probabilities, predictions_of

        if cache_tokens:
            tokens = tokenize(documents, self.backbone.tokenizer, cache_dir=None)
        else:
            tokens = tokenize_in_memory(documents.texts, self.tokenizer)
            if documents.pairs is not None:
                second = tokenize_in_memory(documents.pairs, self.tokenizer)
                template = pair_template(self.backbone.tokenizer)
                tokens = joined_pairs(
                    (tokens.ids, tokens.offsets), (second.ids, second.offsets), template, tokens.pad_id
                )
        batches = self.pipeline.eval_batches(tokens, documents.labels)
        probabilities_NC = predict_probabilities(self.model, batches, self.hardware, on_progress)
        if not (probabilities_NC * 0 == 0).all():
            raise UserError(
                f"{self.path}: the model's output is NaN for some documents, because the weights are too large or "
                "damaged. Restore the run from a copy, or train it again."
            )
        return predictions_of(documents, tokens, probabilities_NC, self.label_names), tokens


def open_finished(
    path: Path, *, plugins: Sequence[str] = (), device: str | None = None
) -> "tuple[Config, dict[str, Any]]":
    """Return the config and the result of a finished run. `device` overrides the run's device.

    The caller lists in `plugins` which packages may be imported. The run's own list is ignored, because the folder may
    be untrusted. Raise UserError if the folder is not a finished run, or if it contains links or invalid files.
    """
    require_address_space()
    from imdbcls.config.checking import require_valid
    from imdbcls.config.earlier_versions import with_later_keys

    require_one_run(path)
    require_no_links(path)
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path / 'config.yaml'} is missing, so {path} is not a run folder (runs/<study>/<name>).")
    folder = RunFolder(path)
    folder.require_version()
    folder.require_classifier()
    chosen = {"plugins": list(plugins)} if device is None else {"plugins": list(plugins), "device": device}
    config = require_valid({**with_later_keys(folder.config()), **chosen})
    config = config.with_changes(data={"cache_dir": None})  # an untrusted config must not choose where to write
    result = folder.finished()
    if result is None:
        raise UserError(
            f"{path} does not contain a finished run: {folder.problem()}. Run its training command again to "
            "resume the run. That command keeps a damaged result.json under another name."
        )
    return config, result


def require_one_run(path: Path) -> None:
    """Raise UserError if `path` is a study folder; the error lists the study's runs."""
    if (path / "config.yaml").exists() or not path.is_dir():
        return
    names = sorted(found.parent.name for found in path.glob("*/config.yaml") if SAFE_NAME.fullmatch(found.parent.name))
    if names:
        more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
        raise UserError(
            f"{path} is a study folder, not a run folder: add the name of one of its runs "
            f"({', '.join(names[:MAX_LISTED])}{more})."
        )


def load_finished(path: Path, config: "Config", label_names: Sequence[str]) -> FinishedModel:
    """Rebuild the model of a finished run from its folder. `config` must come from `open_finished`.

    Raise UserError if the checkpoint is damaged or does not fit the model.
    """
    from imdbcls.models.encoder_weights import require_finite
    from imdbcls.sections import build_hardware, build_model, build_pipeline
    from imdbcls.training import checkpoint

    checkpoints = RunFolder(path).checkpoints
    if not checkpoints.exists():
        raise UserError(
            f"{path} {NO_WEIGHTS}. Restore them from a copy, or move {path} away and run its training command again "
            "with checkpoint.keep=best."
        )
    hardware = build_hardware(config)
    try:
        backbone = rebuild_backbone(config, path)
        model = build_model(config, backbone, len(label_names))
        best = checkpoint.newest(checkpoints / "best", model.state_dict())
        if best is None:
            raise UserError(f"{checkpoints / 'best'} is missing.")
    except UserError as error:
        remedy = checkpoint.remedy(path)
        raise UserError(str(error) if remedy in str(error) else f"{error} {remedy}") from error
    require_finite(best.tensors["model"], checkpoints / "best" / "model.safetensors")
    model.load_state_dict(best.tensors["model"])
    model = model.to(hardware.device)
    return FinishedModel(
        path, build_pipeline(config), hardware, backbone, model, tuple(label_names), config.data.reads_pairs
    )


def load_plain(path: Path, config: "Config", label_names: Sequence[str]) -> FinishedModel:
    """Rebuild the model of a finished run in float32 and in evaluation mode, without the fast kernels."""
    plain = config.with_changes(precision="fp32", backbone={"fast": False, "gradient_checkpointing": False})
    loaded = load_finished(path, plain, label_names)
    loaded.model.eval()
    return loaded


def rebuild_backbone(config: "Config", path: Path) -> "Backbone":
    """Build the backbone of a finished run, with random weights, from its run folder."""
    from imdbcls.data.tokenizer_check import require_sound_files
    from imdbcls.models.backbone import load_backbone
    from imdbcls.models.encoder_weights import require_architecture
    from imdbcls.sections import prepared

    folder = RunFolder(path)
    backbone = config.backbone
    saved = folder.backbone.absolute()  # an absolute path is never read as a hub id
    require_sound_files(saved)
    require_architecture(saved, tensor_shapes(folder.checkpoints / "best" / "model.safetensors"))
    rebuilt = load_backbone(
        name=backbone.name,
        path=str(saved),
        pretrained=False,
        dropout=backbone.dropout,
        attention_dropout=backbone.attention_dropout,
        fast=backbone.fast,
    )
    return prepared(config, rebuilt)
