"""Everything that an export needs from a finished run, without the fast kernels and without the documents."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing

from imdbcls.config.schema import Config
from imdbcls.data.tokens import end_token
from imdbcls.errors import UserError
from imdbcls.finished import FinishedModel, load_finished
from imdbcls.models.classifier import Classifier

SIDES = {"head": "right", "tail": "left"}  # of the truncation, by `data.truncation`


@dataclass(frozen=True)
class ExportSource:
    """A finished run on the CPU in float32. `finished` computes as in training; `model` is plain PyTorch.

    `tokenizer` truncates and pads as the run does. The exported logits are those of `model`, divided by `temperature`.
    """

    folder: Path
    config: Config
    result: Mapping[str, Any]
    label_names: tuple[str, ...]
    temperature: float
    finished: FinishedModel
    model: Classifier
    tokenizer: Any

    @property
    def encoder_config(self) -> Any:
        return self.finished.backbone.encoder.config


def open_source(
    folder: Path, config: Config, result: Mapping[str, Any], label_names: Sequence[str], temperature: float
) -> ExportSource:
    """Load the model of a finished run for an export. Raises UserError if an exported model could not do the same."""
    require_one_row(config)
    on_cpu = config.with_changes(device="cpu", precision="fp32")
    finished = load_finished(folder, on_cpu, label_names)
    plain = on_cpu.with_changes(backbone={"fast": False, "gradient_checkpointing": False})
    model = load_finished(folder, plain, label_names).model.eval()
    tokenizer = exported_tokenizer(finished.backbone.tokenizer, config.max_length, SIDES[config.data.truncation])
    return ExportSource(folder, config, result, tuple(label_names), temperature, finished, model, tokenizer)


def require_one_row(config: Config) -> None:
    """Raise UserError if the run does not read one row of tokens per document, cut at one end."""
    if config.data.truncation not in SIDES:
        raise UserError(
            f"data.truncation={config.data.truncation} cannot be exported: an exported model reads the first or the "
            "last max_length tokens of a document. Classify with `python -m imdbcls.predict`, or train with "
            "data.truncation=head or tail."
        )


def exported_tokenizer(tokenizer: Any, max_length: int, truncation_side: str) -> Any:
    """Return a copy of a tokenizer that truncates and pads as the run does.

    If the tokenizer adds no special tokens (GPT-2, Qwen), the copy adds the end token that the run adds.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.truncation_side, tokenizer.padding_side = truncation_side, "right"
    backend = tokenizer.backend_tokenizer
    if not backend.num_special_tokens_to_add(False):
        end = tokenizer.convert_ids_to_tokens(end_token(tokenizer))
        backend.post_processor = TemplateProcessing(single=["$A", end], special_tokens=[(end, end_token(tokenizer))])
    backend.no_truncation()
    backend.no_padding()
    return tokenizer


def standalone_tokenizer(source: ExportSource) -> Any:
    """Return a tokenizer of the library `tokenizers` that truncates and pads by itself."""
    tokenizer, backend = source.tokenizer, copy.deepcopy(source.tokenizer.backend_tokenizer)
    backend.enable_truncation(source.config.max_length, direction=tokenizer.truncation_side)
    backend.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return backend
