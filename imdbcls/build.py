"""Build all parts of a run from its config, in a fixed order."""

from collections.abc import Mapping
from dataclasses import dataclass

from imdbcls.config.schema import Config
from imdbcls.construction import build_corpus
from imdbcls.data.batches import SplitBatches
from imdbcls.data.card import DataCard, card_of
from imdbcls.data.documents import Corpus
from imdbcls.data.pipeline import Pipeline
from imdbcls.data.tokens import Tokens
from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.models.encoders import require_precision
from imdbcls.models.environment import environment_of
from imdbcls.models.torch_compile import compile_training
from imdbcls.runs.encoder_source import encoder_source_of
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import resume_key
from imdbcls.runs.metrics_log import MetricsLog
from imdbcls.runs.read_predictions import max_documents
from imdbcls.runtime.cache import cache_folder
from imdbcls.runtime.device import Hardware, reset_peak_memory, seed_everything_at
from imdbcls.runtime.distributed import Processes
from imdbcls.runtime.environment import FEATURE_CACHE
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.signals import StopRequest
from imdbcls.runtime.versions import numeric_versions
from imdbcls.sections import (
    build_backbone,
    build_hardware,
    build_model,
    build_objective,
    build_phases,
    build_pipeline,
    build_settings,
    build_tokenizer,
    require_buildable,
)
from imdbcls.training.control import RunControl, ShouldPrune
from imdbcls.training.evaluation import CLASSIFICATION, Evaluation, Evaluator
from imdbcls.training.evaluation_model import EvaluationModel
from imdbcls.training.feature_cache import encode_once, hash_of_weights, is_rounded
from imdbcls.training.profiler import StepProfiler
from imdbcls.training.run import Run
from imdbcls.training.state import Saver
from imdbcls.training.trainer import Trainer

ADAPTERS = -2  # the `step` of `seed_everything_at` for the initial LoRA weights


@dataclass(frozen=True)
class Inputs:
    """The inputs of training: the documents as batches, the model on its device, and how the model is evaluated.

    `frozen_weights` is a hash of the encoder's weights if training does not change them, else None.
    """

    hardware: Hardware
    corpus: Corpus
    backbone: Backbone
    model: Classifier
    pipeline: Pipeline
    tokens: Mapping[str, Tokens]
    batches: SplitBatches
    frozen_weights: str | None
    evaluation: Evaluation = CLASSIFICATION


def build_run(
    config: Config,
    folder: RunFolder,
    stop: StopRequest,
    should_prune: ShouldPrune | None = None,
    processes: Processes | None = None,
) -> Run:
    """Build everything that one training run needs, and save the backbone's architecture and tokenizer in `folder`.

    Random numbers are drawn only for initial weights, from random states that depend only on the seed. So the result
    does not depend on what was built before. With `should_prune`, the run is a trial, which never evaluates the test
    split. With several `processes`, each builds the same model and gets a share of every batch. Raise UserError for
    mistakes that the user can correct.
    """
    processes = processes or Processes()
    require_buildable(config)
    progress = Progress(config.progress if processes.is_main else "none")
    control = RunControl(progress, stop, should_prune, processes)
    return assemble_run(config, folder, build_inputs(config, folder, control), control)


def assemble_run(config: Config, folder: RunFolder, inputs: Inputs, control: RunControl) -> Run:
    """Build the models, the optimizer and the trainer of a run from its inputs."""
    processes = control.processes
    inputs.batches.train.divide_among(processes.size, processes.rank)
    evaluation_model = build_evaluation_model(config, inputs)
    environment = environment_of(
        inputs.hardware, evaluation_model.trained, evaluation_model.model
    )  # compiles the kernels if needed, before the training time is measured
    if processes.size > 1:
        environment["processes"] = str(processes.size)
    if inputs.batches.test.features is not None and is_rounded(inputs.hardware, inputs.model.head_input):
        environment[FEATURE_CACHE] = "bfloat16"
    return Run(
        config=config,
        folder=folder,
        hardware=inputs.hardware,
        corpus=inputs.corpus,
        backbone=inputs.backbone,
        tokens=inputs.tokens,
        pipeline=inputs.pipeline,
        batches=inputs.batches,
        environment=environment,
        trainer=build_trainer(config, folder, inputs, control, evaluation_model, environment),
        encoder_source=encoder_source_of(config, inputs.corpus),
    )


def build_inputs(config: Config, folder: RunFolder, control: RunControl) -> Inputs:
    """Build the data and the model. If the config uses the feature cache, also fill the cache."""
    hardware = build_hardware(config)
    reset_peak_memory(hardware.device)
    corpus = build_corpus(config.data)
    require_defined_metric(config, corpus)
    require_readable_predictions(config, corpus)
    backbone = build_backbone(config)
    if control.processes.is_main:
        backbone.save(folder.backbone)
    model = build_model(config, backbone, len(corpus.label_names))
    pipeline = build_pipeline(config)
    tokens = pipeline.tokenize(corpus, backbone.tokenizer)
    batches = pipeline.batches(corpus, tokens)
    model.to(hardware.device)
    require_precision(backbone.name, model.encoder, hardware)
    keeps_encoder = model.encoder_is_frozen or config.backbone.lora_rank is not None
    frozen_weights = hash_of_weights(model.encoder) if keeps_encoder else None
    inputs = Inputs(hardware, corpus, backbone, model, pipeline, tokens, batches, frozen_weights)
    if config.uses_feature_cache:
        # A trial never evaluates the test split. Other runs evaluate it after the last epoch. If the encoder was frozen
        # only in the first epochs, its cached output is outdated by then.
        with_test = not control.is_trial and config.backbone.freeze is True
        read_from_feature_cache(config, inputs, control.progress, with_test)
    return inputs


def require_defined_metric(config: Config, corpus: Corpus) -> None:
    """Raise UserError if the metric that selects the best epoch is not defined on the validation split."""
    present = set(corpus.validation.labels.tolist())
    missing = [name for index, name in enumerate(corpus.label_names) if index not in present]
    if config.metric == "auroc" and missing:
        raise UserError(
            f"metric=auroc is not defined on the validation split, because it has no document of class "
            f"{', '.join(missing)}. Use more validation documents (data.validation_limit, data.validation_fraction) or "
            "another metric."
        )


def require_readable_predictions(config: Config, corpus: Corpus) -> None:
    """Raise UserError if `compare` would refuse to read the predictions of the run, because they are too large."""
    num_classes = len(corpus.label_names)
    for split in ("validation", "test"):
        ids = corpus.splits[split].ids
        longest = max(map(len, ids))
        limit = max_documents(num_classes, longest)
        if len(ids) > limit:
            key = "train_limit" if split == "validation" and config.data.validate_on_train else f"{split}_limit"
            raise UserError(
                f"The {split} split has {len(ids):,} documents. With {num_classes:,} classes and ids of up to "
                f"{longest} characters, compare can read the predictions of at most {limit:,} documents. Set "
                f"data.{key}={limit}."
            )


def read_from_feature_cache(config: Config, inputs: Inputs, progress: Progress, with_test: bool) -> None:
    """Encode the documents that the feature cache lacks, and make the batches read the encoder's output from the cache.

    The test split is included only with `with_test`.
    """
    weights = hash_of_weights(inputs.model.encoder) if inputs.frozen_weights is None else inputs.frozen_weights
    batches = inputs.batches
    eval_batches = {
        "train": inputs.pipeline.eval_batches(inputs.tokens["train"], inputs.corpus.train.labels),
        "validation": batches.validation,
        **({"test": batches.test} if with_test else {}),
    }
    features = encode_once(
        inputs.model,
        inputs.backbone,
        eval_batches,
        inputs.hardware,
        weights=weights,
        folder=cache_folder(config.data.cache_dir) / "features",
        cache_gb=config.backbone.cache_gb,
        on_progress=progress.for_split("encoding"),
    )
    batches.train.read_from(features["train"])
    batches.validation.read_from(features["validation"])
    if with_test:
        batches.test.read_from(features["test"])


def build_evaluation_model(config: Config, inputs: Inputs) -> EvaluationModel:
    """Build the evaluation model, with LoRA weights or an average of the weights if the config asks for them."""
    seed_everything_at(config.seed, ADAPTERS)
    num_steps, swa_start = config.epochs * inputs.batches.train.steps_per_epoch, config.trainer.swa_start
    evaluation_model = EvaluationModel(
        inputs.model,
        lora_rank=config.backbone.lora_rank,
        ema_decay=config.trainer.ema_decay,
        swa_start=None if swa_start is None else min(round(swa_start * num_steps), num_steps - 1),
    )
    if config.compile:
        num_rows, has_types = build_settings(config).micro_batch_size, inputs.tokens["train"].has_types
        compile_training(evaluation_model.trained, inputs.hardware, num_rows, config.max_length, has_types)
    return evaluation_model


def build_trainer(
    config: Config,
    folder: RunFolder,
    inputs: Inputs,
    control: RunControl,
    evaluation_model: EvaluationModel,
    environment: Mapping[str, str],
) -> Trainer:
    """Build the trainer with its optimizers, schedules and saver."""
    phases = build_phases(config, evaluation_model.trained, inputs.batches.train.steps_per_epoch)
    saver = Saver(
        folder=folder.checkpoints,
        resume_key=resume_key(config, inputs.corpus.split_hash, inputs.hardware, inputs.frozen_weights),
        environment={**environment, **numeric_versions()},
        evaluation_model=evaluation_model,
        phases=phases,
        metrics_log=MetricsLog(folder.path / "metrics.jsonl"),
        processes=control.processes,
    )
    return Trainer(
        build_settings(config),
        evaluation_model=evaluation_model,
        objective=build_objective(config, inputs.corpus, inputs.hardware),
        phases=phases,
        batches=inputs.batches,
        evaluator=Evaluator(inputs.evaluation, evaluation_model, inputs.hardware, control),
        hardware=inputs.hardware,
        saver=saver,
        control=control,
        profiler=build_profiler(config, folder, inputs.hardware, control.processes),
    )


def build_profiler(config: Config, folder: RunFolder, hardware: Hardware, processes: Processes) -> StepProfiler | None:
    """Return the profiler if `trainer.profile_steps` is set and this is the main process, else None."""
    num_steps = config.trainer.profile_steps
    if num_steps is None or not processes.is_main:
        return None
    return StepProfiler(num_steps, folder.path / "trace.json.gz", hardware.device)


def build_data_card(config: Config) -> DataCard:
    """Return the data card of a run with this config. Tokenizing for the card also fills the token cache.

    Raise UserError if the documents cannot be read or the backbone cannot be used.
    """
    corpus, tokenizer, pipeline = build_corpus(config.data), build_tokenizer(config), build_pipeline(config)
    tokens = pipeline.tokenize(corpus, tokenizer)
    return card_of(corpus, tokens, tokenizer, pipeline, config.data.name, config.backbone.name)
