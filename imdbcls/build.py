"""From a configuration to finished objects: the only caller of `instantiate`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from imdbcls.config.allowed_targets import borrowed_targets
from imdbcls.config.paths import require_length
from imdbcls.config.signatures import require_settings
from imdbcls.data.batches import EvalBatches, TrainBatches
from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
from imdbcls.data.token_counts import TokenCounts, count_tokens
from imdbcls.data.tokenizer_check import require_sound_files
from imdbcls.data.tokens import Tokens, tokenize
from imdbcls.data.windows import Windows
from imdbcls.errors import UserError
from imdbcls.models import lora
from imdbcls.models.backbone import Backbone, freeze, load_backbone, recompute_activations, require_architecture
from imdbcls.models.classifier import Classifier
from imdbcls.models.encoders import require_precision
from imdbcls.models.environment import environment_of
from imdbcls.models.torch_compile import compile_training
from imdbcls.runs.content import by_content
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import NEUTRAL_KEYS, group_hash, without
from imdbcls.runs.metrics_log import MetricsLog
from imdbcls.runs.untrusted import tensor_shapes
from imdbcls.runtime import limits
from imdbcls.runtime.cache import cache_folder
from imdbcls.runtime.device import Hardware, choose_hardware, seed_everything_at
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.signals import StopRequest
from imdbcls.tracking import RunIdentity, Tracker
from imdbcls.training.evaluation_model import ScoredModel
from imdbcls.training.feature_cache import encode_once, hash_of_weights
from imdbcls.training.losses import Objective, weights_of_classes
from imdbcls.training.optim import parameter_groups
from imdbcls.training.report import versions
from imdbcls.training.state import Saver
from imdbcls.training.trainer import Trainer

LR_MULTIPLES = ("head_lr", "layer_decay")  # in the optimizer's section, but the project's
INITIALISATION = -1  # the random state of the first weights; training step n draws from state n
ADAPTERS = -2  # and that of LoRA's
OWN_SETTINGS = (
    "freeze",
    "cache",
    "cache_gb",
    "lora_rank",
    "gradient_checkpointing",
)  # of the backbone section; the rest builds it


@dataclass(frozen=True)
class ScoredSplit:
    """A split to be scored: its documents, their tokens and their batches."""

    documents: Documents
    tokens: Tokens
    batches: EvalBatches


def require_buildable(config: Mapping[str, Any]) -> None:
    """Refuse (UserError), before anything is loaded, settings that would be refused where they are used."""
    require_settings(config)
    settings = {key: value for key, value in config["optimizer"].items() if key not in LR_MULTIPLES}
    try:
        construct(settings)([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:  # a beta of 2, a negative weight decay
        raise UserError(f"{settings['_target_']} refuses its settings (optimizer.*): {error}.") from error


def build_hardware(config: Mapping[str, Any]) -> Hardware:
    hardware = choose_hardware(config["device"], config["precision"], config["deterministic"])
    if hardware.device.type == "cpu":
        start_threads()
    return hardware


def start_threads() -> None:
    """Start PyTorch's compute threads, or raise UserError if this process may not start that many.

    OpenMP ends the process at once when it cannot start a thread, without an exception. So the threads are tried first
    (twice as many: PyTorch and the compiled kernels may each have their own) and started before memory is taken.
    """
    count = torch.get_num_threads()
    limits.require_threads(2 * count)
    torch.zeros(count << 16).add_(1)  # large enough for every thread to get a part


def build_corpus(config: Mapping[str, Any]) -> Corpus:
    """The documents of a run, read anew, for files may change, unless `keep_corpus` has just them."""
    kept = _kept_corpus.get(corpus_key(config))
    if kept is not None:
        return kept
    settings = {key: config["data"][key] for key in SPLIT_SETTINGS}
    return make_corpus(construct(config["data"]["source"]), **settings)


def keep_corpus(config: Mapping[str, Any]) -> None:
    """Read a run's documents for all processes that are forked from this one: a sweep's jobs share them."""
    key = corpus_key(config)
    if key not in _kept_corpus:
        _kept_corpus.clear()
        _kept_corpus[key] = build_corpus(config)


def corpus_key(config: Mapping[str, Any]) -> str:
    return json.dumps({key: config["data"][key] for key in ("source", *SPLIT_SETTINGS)}, sort_keys=True)


_kept_corpus: dict[str, Corpus] = {}  # by `corpus_key`; one at most


def construct(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Hydra's `instantiate`, with the user's mistakes raised as they are and not wrapped."""
    for mistake in borrowed_targets(node):
        raise UserError(mistake)
    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if error.__cause__ is None or isinstance(error.__cause__, TypeError | ValueError):
            # An option too many, one of the wrong kind, or one of Hydra's own (_args_, _convert_) that it cannot read.
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{node.get('_target_')} refuses its settings: {reason}") from error
        raise


def build_backbone(config: Mapping[str, Any]) -> Backbone:
    seed_everything_at(config["seed"], INITIALISATION)
    settings = {key: value for key, value in config["backbone"].items() if key not in OWN_SETTINGS}
    if config["backbone"]["lora_rank"] is not None:
        lora.require_peft()
    backbone = fitting(config, construct(settings))
    freeze(backbone, config["backbone"]["freeze"])
    return backbone if config["backbone"]["lora_rank"] is None else replace(backbone, not_fast=lora.NOT_FAST)


def rebuild_backbone(config: Mapping[str, Any], folder: RunFolder) -> Backbone:
    """A finished run's backbone from its folder alone: the architecture and the tokenizer, without weights."""
    names = ("name", "dropout", "attention_dropout", "fast")
    settings = {name: config["backbone"][name] for name in names}
    path = folder.backbone.absolute()  # never a hub id
    require_sound_files(path)
    require_architecture(path, tensor_shapes(folder.checkpoints / "best" / "model.safetensors"))
    return fitting(config, load_backbone(path=str(path), pretrained=False, **settings))


def fitting(config: Mapping[str, Any], backbone: Backbone) -> Backbone:
    """The backbone as it is trained and scored; raises UserError where it cannot take so long documents."""
    require_length(config["max_length"], backbone.name, backbone.max_length)
    return recompute_activations(backbone) if config["backbone"]["gradient_checkpointing"] else backbone


def build_model(config: Mapping[str, Any], backbone: Backbone, num_labels: int) -> Classifier:
    settings = {key: value for key, value in config["head"].items() if key != "name"}
    head = construct(settings, hidden_size=backbone.hidden_size, num_labels=num_labels)
    if backbone.causal and vars(type(head)).get("reads_first_token_alone", False):
        raise UserError(
            f"head={config['head']['name']} reads only the first token, which sees no other token in "
            f"backbone={backbone.name}, a decoder-only model: use head=mean, max, attention, weight_avg or lstm."
        )
    return Classifier(
        backbone.encoder,
        head,
        unpadded=backbone.not_unpadded is None,
        every_token=config["backbone"]["freeze"] is True,  # the same vectors for all heads, from the cache or not
    )


def build_scored_split(config: Mapping[str, Any], backbone: Backbone, documents: Documents) -> ScoredSplit:
    data = config["data"]
    tokens = tokenize(documents, backbone.tokenizer, cache_dir=data["cache_dir"])
    batches = EvalBatches(
        tokens,
        documents.labels,
        batch_size=config["eval_batch_size"],
        max_length=config["max_length"],
        truncation=truncation_of(data),
    )
    return ScoredSplit(documents, tokens, batches)


def token_counts(
    config: Mapping[str, Any], backbone: Backbone, trainer: Trainer, validation: ScoredSplit, test: ScoredSplit
) -> dict[str, TokenCounts]:
    """Count the tokens of each split, and what the tokenizer and `max_length` leave out."""
    tokens = {"train": trainer.train_batches.tokens, "validation": validation.tokens, "test": test.tokens}
    truncation = truncation_of(config["data"])
    return {
        split: count_tokens(found, backbone.tokenizer, config["max_length"], truncation)
        for split, found in tokens.items()
    }


def truncation_of(data: Mapping[str, Any]) -> str | Windows:
    """What becomes of a document longer than max_length, by the data section."""
    if data["truncation"] == "windows":
        return Windows(data["window_overlap"], data["max_windows"])
    return data["truncation"]


def build_trainer(
    config: Mapping[str, Any],
    folder: RunFolder,
    hardware: Hardware,
    backbone: Backbone,
    model: Classifier,
    corpus: Corpus,
    validation: ScoredSplit,
    test: ScoredSplit,
    stop: StopRequest,
) -> Trainer:
    data, settings = config["data"], config["trainer"]
    train_batches = TrainBatches(
        tokenize(corpus.train, backbone.tokenizer, cache_dir=data["cache_dir"]),
        corpus.train.labels,
        batch_size=config["batch_size"],
        max_length=config["max_length"],
        order_seed=data["order_seed"],
        group_by_length=data["group_by_length"],
        truncation=truncation_of(data),
    )
    model.to(hardware.device)
    require_precision(backbone.name, model.encoder, hardware)
    is_kept = model.encoder_is_frozen or config["backbone"]["lora_rank"] is not None  # LoRA trains an update beside it
    frozen_encoder = hash_of_weights(model.encoder) if is_kept else None
    if config["backbone"]["freeze"] is True and config["backbone"]["cache"]:
        assert frozen_encoder is not None, "backbone.freeze=true left weights of the encoder to train"
        splits = {
            "train": build_scored_split(config, backbone, corpus.train).batches,
            "validation": validation.batches,
            "test": test.batches,
        }
        features = encode_once(
            model,
            backbone,
            splits,
            hardware,
            weights=frozen_encoder,
            folder=cache_folder(data["cache_dir"]) / "features",
            cache_gb=config["backbone"]["cache_gb"],
            on_progress=Progress(config["progress"]).of("encoding"),
        )
        for name, batches in (splits | {"train": train_batches}).items():
            batches.read_from(features[name])
    seed_everything_at(config["seed"], ADAPTERS)
    scored = ScoredModel(model, lora_rank=config["backbone"]["lora_rank"], ema_decay=settings["ema_decay"])
    if config["compile"]:
        compile_training(scored.trained, hardware, config["max_length"])
    num_steps = config["epochs"] * train_batches.steps_per_epoch
    num_warmup_steps = round(config["warmup"] * num_steps)
    try:
        optimizer = build_optimizer(config, scored.trained)
        schedule = construct(config["schedule"])(optimizer, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
    except (TypeError, ValueError) as error:  # a beta of 2, an option that SGD does not have
        raise UserError(f"The optimizer or its schedule refuses its settings: {error}") from error
    metrics_log = MetricsLog(folder.path / "metrics.jsonl")
    environment = environment_of(hardware, scored.trained, scored.model)  # compiles: not while training is timed
    micro_batch_size = settings["micro_batch_size"]
    return Trainer(
        scored=scored,
        objective=build_objective(config, corpus, hardware),
        optimizer=optimizer,
        schedule=schedule,
        hardware=hardware,
        environment=environment,
        train_batches=train_batches,
        validation_batches=validation.batches,
        watched_test_batches=test.batches if settings["score_test_each_epoch"] else None,
        epochs=config["epochs"],
        patience=settings["patience"],
        seed=config["seed"],
        micro_batch_size=config["batch_size"] if micro_batch_size is None else micro_batch_size,
        max_grad_norm=settings["max_grad_norm"],
        log_every=settings["log_every"],
        saver=Saver(
            folder=folder.checkpoints,
            identity=identity_of(config, corpus, hardware, frozen_encoder),
            surroundings=surroundings_of(environment),
            scored=scored,
            optimizer=optimizer,
            schedule=schedule,
            metrics_log=metrics_log,
        ),
        save_every_minutes=config["checkpoint"]["every_minutes"],
        metrics_log=metrics_log,
        progress=Progress(config["progress"]),
        stop=stop,
    )


def build_objective(config: Mapping[str, Any], corpus: Corpus, hardware: Hardware) -> Objective:
    settings = dict(config["loss"])
    r_drop, wanted = settings.pop("r_drop"), settings.pop("class_weights")
    weights_C = weights_of_classes(wanted, corpus.train.labels, corpus.label_names)
    weights_C = None if weights_C is None else weights_C.to(hardware.device)
    return Objective(construct(settings, class_weights_C=weights_C), r_drop)


def build_optimizer(config: Mapping[str, Any], model: Classifier) -> Optimizer:
    settings = dict(config["optimizer"])
    multiples = {key: settings.pop(key) for key in LR_MULTIPLES}
    if "lr" not in settings and set(multiples.values()) != {1}:
        raise UserError(
            f"optimizer.head_lr and layer_decay are multiples of an lr, and {settings['_target_']} has none."
        )
    return construct(settings)(parameter_groups(model, lr=settings.get("lr"), **multiples))


def identity_of(
    config: Mapping[str, Any], corpus: Corpus, hardware: Hardware, frozen_encoder: str | None
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued: all that decides the result but for the software.

    A frozen encoder is named by its weights' hash, for they are not saved again and again.
    """
    return {
        **({} if frozen_encoder is None else {"frozen_encoder": frozen_encoder}),
        "configuration": by_content(without(config, NEUTRAL_KEYS)),
        "split_hash": corpus.split_hash,
        "device": hardware.device.type,
        "precision": hardware.precision,
    }


def surroundings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What may differ when a run is continued, although it decides the last bits of the result."""
    found = versions()
    software = {
        name: found.get(name, "unknown") for name in ("imdbcls", "torch", "transformers", "tokenizers", "numpy")
    }
    return {**environment, **software}


def build_tracker(config: Mapping[str, Any], folder: RunFolder, resumed_step: int | None) -> Tracker:
    """The tracker of one training run, still to be opened by `with`."""
    tags = (config["head"]["name"], config["backbone"]["name"], config["data"]["name"])
    identity = RunIdentity(study=config["study"], name=folder.path.name, job_type="train", tags=tags)
    return construct(config["tracker"])(
        identity=identity,
        config={**config, "group_hash": group_hash(config)},
        folder=folder.study,
        resumed_step=resumed_step,
    )
