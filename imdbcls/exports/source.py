"""Load finished runs for an export: their models in plain PyTorch, and a tokenizer. No documents are read."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.processors import TemplateProcessing

from imdbcls.config.schema import Config
from imdbcls.data.tokens import end_token
from imdbcls.ensemble import Ensemble, require_same_documents
from imdbcls.errors import UserError
from imdbcls.finished import FinishedModel, load_finished, load_plain
from imdbcls.finished_run import FinishedRun
from imdbcls.models.classifier import Classifier

SIDES = {"head": "right", "tail": "left"}  # the side on which tokens are cut, by the value of `data.truncation`


@dataclass(frozen=True)
class Member:
    """A finished run on the CPU in float32. The model in `finished` may use fast kernels; `model` is plain PyTorch."""

    run: FinishedRun
    finished: FinishedModel
    model: Classifier

    @property
    def encoder_config(self) -> Any:
        return self.finished.backbone.encoder.config


@dataclass(frozen=True)
class ExportSource:
    """One run, or several runs whose calibrated probabilities are averaged.

    `tokenizer` truncates and pads as in the runs. The exported model of a single run returns the run's logits divided
    by its temperature. The exported model of several runs returns the logarithms of the averaged probabilities. The
    softmax of these logarithms gives the averaged probabilities.
    """

    members: tuple[Member, ...]
    tokenizer: Any

    @property
    def runs(self) -> tuple[FinishedRun, ...]:
        return tuple(member.run for member in self.members)

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.members[0].run.label_names

    @property
    def config(self) -> Config:
        """The config of the first run. All runs have the same `max_length`, truncation and documents."""
        return self.members[0].run.config

    @property
    def is_ensemble(self) -> bool:
        return len(self.members) > 1

    @property
    def description(self) -> str:
        """The head and the backbone of each run, for messages."""
        configs = [run.config for run in self.runs]
        names = [f"head={config.head.name} on backbone={config.backbone.name}" for config in configs]
        return ", ".join(dict.fromkeys(names))


def open_source(runs: Sequence[FinishedRun]) -> ExportSource:
    """Load the models of one or more finished runs for an export.

    Raise UserError if a run reads pairs of texts, or other tokens than the first or the last `max_length` tokens of a
    text. Also raise UserError if the runs differ in their classes, documents, `max_length`, truncation or tokenizer.
    """
    for run in runs:
        require_one_row(run.config)
    if len(runs) > 1:
        require_same_documents(Ensemble(tuple(runs)).runs)
        require_same_rows(runs)
    members = [open_member(run) for run in runs]
    tokenizers = [tokenizer_of(member) for member in members]
    for run, tokenizer in zip(runs, tokenizers, strict=True):
        if not same_tokenizer(tokenizer, tokenizers[0]):
            raise UserError(
                f"{runs[0].folder} and {run.folder} have different tokenizers, but an exported model tokenizes each "
                "text once. Export runs with the same tokenizer, or average them with `python -m imdbcls.predict`."
            )
    return ExportSource(tuple(members), tokenizers[0])


def open_member(run: FinishedRun) -> Member:
    on_cpu = run.config.with_changes(device="cpu", precision="fp32")
    finished = load_finished(run.folder, on_cpu, run.label_names)
    return Member(run, finished, load_plain(run.folder, on_cpu, run.label_names).model)


def require_one_row(config: Config) -> None:
    """Raise UserError unless the run reads one row of tokens per text: its first or its last `max_length` tokens."""
    if config.data.reads_pairs:
        raise UserError(
            "A run with data.pair_column cannot be exported: an exported model reads single texts. Classify with "
            "`python -m imdbcls.predict`, or train with joined texts (data.text_column=[first,second])."
        )
    if config.data.truncation not in SIDES:
        raise UserError(
            f"A run with data.truncation={config.data.truncation} cannot be exported: an exported model reads the "
            "first or the last max_length tokens of a document. Classify with `python -m imdbcls.predict`, or train "
            "with data.truncation=head or tail."
        )


def require_same_rows(runs: Sequence[FinishedRun]) -> None:
    """Raise UserError if the runs do not read the same part of a document."""
    first, *others = runs
    for run in others:
        for key, wanted, given in (
            ("max_length", first.config.max_length, run.config.max_length),
            ("data.truncation", first.config.data.truncation, run.config.data.truncation),
        ):
            if given != wanted:
                raise UserError(
                    f"{first.folder} has {key}={wanted}, but {run.folder} has {key}={given}. An exported model "
                    f"tokenizes each text once. Export runs with the same {key}, or average them with `python -m "
                    "imdbcls.predict`."
                )


def tokenizer_of(member: Member) -> Any:
    config = member.run.config
    return exported_tokenizer(member.finished.backbone.tokenizer, config.max_length, SIDES[config.data.truncation])


def same_tokenizer(one: Any, other: Any) -> bool:
    """Return whether two exported tokenizers give the same token ids and padding."""
    return one.pad_token_id == other.pad_token_id and one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def exported_tokenizer(tokenizer: Any, max_length: int, truncation_side: str) -> Any:
    """Return a copy of a tokenizer with the run's maximum length, truncation side and padding side.

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
    """Return a tokenizer of the library `tokenizers` in which truncation and padding are enabled."""
    tokenizer, backend = source.tokenizer, copy.deepcopy(source.tokenizer.backend_tokenizer)
    backend.enable_truncation(source.config.max_length, direction=tokenizer.truncation_side)
    backend.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return backend


def config_hash_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the `config_hash` of each run, joined by `+`."""
    return "+".join(str(result.get("config_hash")) for result in results)
