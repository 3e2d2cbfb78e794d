"""Build all parts of a pretraining run from its config, and describe its start and its result."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdbcls.build import Inputs, assemble_run
from imdbcls.config.pretrain_settings import PretrainSettings
from imdbcls.config.schema import Config
from imdbcls.construction import construct
from imdbcls.data.batches import SplitBatches
from imdbcls.data.documents import Corpus
from imdbcls.data.masking import masking_of
from imdbcls.data.pretraining import pretraining_corpus, read_unlabelled
from imdbcls.data.splits import make_corpus
from imdbcls.data.tokens import Tokens
from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone, locate
from imdbcls.models.classifier import count_parameters
from imdbcls.models.encoders import require_precision
from imdbcls.models.masked_lm import masked_language_model
from imdbcls.models.masked_scores import masked_metrics, masked_scores
from imdbcls.runs.folder import PRETRAINED, RunFolder
from imdbcls.runs.metrics_log import read_points
from imdbcls.runs.selection import selected_epochs
from imdbcls.runtime import console
from imdbcls.runtime.device import reset_peak_memory
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.signals import StopRequest
from imdbcls.sections import build_backbone, build_hardware, build_pipeline, require_buildable
from imdbcls.training.closing import log_cost
from imdbcls.training.control import RunControl
from imdbcls.training.evaluation import Evaluation
from imdbcls.training.report import selection_of, training_of, warn_of_seen_documents
from imdbcls.training.run import Run

logger = logging.getLogger(__name__)

MASKED_LANGUAGE_MODEL = Evaluation(masked_scores, lambda batches, scores_N3: masked_metrics(scores_N3))
# Default size of an evaluation batch in tokens. It is smaller than the default for classification, because each masked
# token has a logit for every token of the vocabulary.
EVAL_TOKENS = 4096


def build_pretraining(
    config: Config, settings: PretrainSettings, folder: RunFolder, stop: StopRequest, corpus: Corpus | None = None
) -> Run:
    """Build everything that one pretraining run needs, and save the backbone's architecture and tokenizer in `folder`.

    `config` is the config that `settings.recorded` returns. `corpus` replaces the documents of the config, for a
    measurement on a part of them. Like `build.build_run`, this function draws random numbers only from random states
    that depend on the seed. Raise UserError for mistakes that the user can correct.
    """
    require_buildable(config)
    hardware = build_hardware(config)
    reset_peak_memory(hardware.device)
    corpus = build_pretraining_corpus(config, settings) if corpus is None else corpus
    backbone = build_backbone(config)
    require_bidirectional(backbone)
    backbone.save(folder.backbone)
    model = masked_language_model(backbone, model_folder(config))
    pipeline = build_pipeline(config)
    if pipeline.eval_batch_size is None:
        pipeline = replace(pipeline, eval_batch_size=max(EVAL_TOKENS // config.max_length, 1))
    tokens = pipeline.tokenize(corpus, backbone.tokenizer)
    batches = pipeline.batches(corpus, tokens)
    mask(batches, backbone, tokens["train"], config.seed, settings)
    model.to(hardware.device)
    require_precision(backbone.name, model.encoder, hardware)
    inputs = Inputs(
        hardware, corpus, backbone, model, pipeline, tokens, batches, None, evaluation=MASKED_LANGUAGE_MODEL
    )
    return assemble_run(config, folder, inputs, RunControl(Progress(config.progress), stop))


def build_pretraining_corpus(config: Config, settings: PretrainSettings) -> Corpus:
    """Read the labelled and unlabelled documents, and leave out copies of validation and test documents."""
    data, source = config.data, construct(config.data.source)
    notes = list(source.notes)
    unlabelled = read_unlabelled(settings.data.unlabelled, data.source.target, data.source.arguments, notes)
    labelled = make_corpus(
        source,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        train_limit=data.train_limit,
        validation_limit=None,  # all validation and test documents are held out
        test_limit=None,
    )
    return pretraining_corpus(
        labelled,
        unlabelled,
        validation_limit=data.validation_limit,
        unlabelled_limit=settings.data.unlabelled_limit,
        split_seed=data.split_seed,
        notes=notes,
    )


def require_bidirectional(backbone: Backbone) -> None:
    """Raise UserError for a decoder-only model, in which a masked token does not attend to later tokens."""
    if backbone.causal:
        raise UserError(
            f"backbone={backbone.name} cannot be pretrained with masked tokens: it is a decoder-only model, so each "
            "token attends only to earlier tokens. Use an encoder such as bert-base, roberta-base or minilm."
        )


def model_folder(config: Config) -> Path | None:
    """Return the folder with the pretrained weights; None if the initial weights are random."""
    path = config.backbone.arguments.get("path")
    return locate(path) if path is not None and config.backbone.pretrained else None


def mask(batches: SplitBatches, backbone: Backbone, tokens: Tokens, seed: int, settings: PretrainSettings) -> None:
    """Mask the tokens of all training and validation batches. Raise UserError if the tokenizer cannot be used."""
    masking = masking_of(
        backbone.tokenizer,
        name=backbone.name,
        probability=settings.masking.probability,
        whole_words=settings.masking.whole_words,
        seed=seed,
        num_prefix=len(tokens.prefix),
        num_suffix=len(tokens.suffix),
    )
    batches.train.mask_with(masking)
    batches.validation.mask_with(masking)


def log_start(run: Run) -> None:
    """Log the documents, the model and the number of steps. Warn if the encoder may have seen held-out documents."""
    corpus, config, trainer = run.corpus, run.config, run.trainer
    warn_of_seen_documents(run)
    for note in corpus.notes:
        logger.info(note)
    if run.backbone.cpu_fallback_reason is not None and run.hardware.device.type == "cpu":
        logger.info(f"{run.backbone.name}: the fast CPU layers are not used: {run.backbone.cpu_fallback_reason}.")
    logger.info(
        f"pretraining {config.backbone.name} ({count_parameters(run.model) / 1e6:.1f}M parameters) on "
        f"{run.hardware.describe()}"
    )
    logger.info(
        f"{config.data.name}: {len(corpus.train):,} documents to learn from, {len(corpus.validation):,} held out"
    )
    logger.info(f"{trainer.num_steps:,} steps of {config.batch_size} documents, epochs={config.epochs}")


def result_of(run: Run) -> dict[str, Any]:
    """Return the content of `result.json`, without the fields of `identity_of`.

    `val/*` is for the saved weights, `before/*` for the initial weights.
    """
    initial = next(read_points(run.folder.path / "metrics.jsonl"))
    best = run.trainer.evaluator.metrics("val", run.trainer.batches.validation, run.trainer.final_validation())
    return {
        "status": PRETRAINED,
        **selection_of(run),
        **{f"before/{name.removeprefix('val/')}": initial[name] for name in best},
        **best,
        "train_documents": len(run.corpus.train),
        "validation_documents": len(run.corpus.validation),
        **training_of(run),
    }


def log_result(run: Run, result: dict[str, Any]) -> None:
    """Log the masked loss before and after pretraining, the cost, and a command that fine-tunes the encoder."""
    before, after = (
        f"{result[f'{prefix}/loss']:.4f} (perplexity {result[f'{prefix}/perplexity']:,.1f})"
        for prefix in ("before", "val")
    )
    logger.info(f"{result['name']}: masked loss {before} before and {after} after pretraining", extra=console.BOLD)
    logger.info(f"  on {result['validation_documents']:,} held-out documents, {selected_epochs(result)}")
    log_cost(run, result)
    name = run.config.backbone.name
    # backbone=tiny never loads weights. Any other choice loads them, and reads the architecture from the folder.
    backbone = "minilm" if name == "tiny" else name
    logger.info(
        f"  next: fine-tune the encoder with python -m imdbcls.train ... backbone={backbone} "
        f"backbone.path={run.folder.path}"
    )
