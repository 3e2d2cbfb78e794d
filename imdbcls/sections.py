"""Build the objects that the sections of a config describe."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.config.allowed_targets import borrowed_targets, locate
from imdbcls.config.checking import require_arguments
from imdbcls.config.paths import require_length
from imdbcls.config.schema import Config, HeadConfig, OneTrackerConfig
from imdbcls.config.signatures import ALL_LAYERS, LAST_LAYERS, Signature, own_signature, signature_of
from imdbcls.construction import construct
from imdbcls.data.documents import Corpus
from imdbcls.data.pipeline import Pipeline
from imdbcls.data.tokens import pair_template
from imdbcls.data.windows import Windows
from imdbcls.errors import UserError
from imdbcls.kernels import accelerate_head
from imdbcls.models import lora
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier, layers_read
from imdbcls.models.encoders import count_hidden_states
from imdbcls.models.head_probe import tokens_read
from imdbcls.models.layers import freeze, recompute_activations
from imdbcls.models.multi_sample import sample_dropout
from imdbcls.models.reinit import reinitialize_top_layers
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.group_label import group_label
from imdbcls.runs.identity import group_hash
from imdbcls.runtime.command_line import command_line
from imdbcls.runtime.device import Hardware, choose_hardware, seed_everything_at, start_threads
from imdbcls.runtime.versions import git_commit
from imdbcls.tracking import RunIdentity, Tracker, Trackers
from imdbcls.training.losses import Objective, weights_of_classes
from imdbcls.training.optim import parameter_groups
from imdbcls.training.phases import Phase, Phases
from imdbcls.training.settings import TrainerSettings

INITIALISATION = -1  # the `step` of `seed_everything_at` for the initial weights; training uses 0, 1, 2, …


def require_buildable(config: Config) -> None:
    """Raise UserError if arguments of a constructor are wrong, or if the optimizer rejects its settings.

    The check loads no documents or weights.
    """
    require_arguments(config)
    try:
        construct(config.optimizer)([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:  # for example a beta of 2
        raise UserError(f"{config.optimizer.target} rejects its settings (optimizer.*): {error}.") from error


def build_hardware(config: Config) -> Hardware:
    """Choose the device and precision, and start the compute threads.

    Raise UserError if this machine lacks the requested device or cannot start the threads.
    """
    hardware = choose_hardware(config.device, config.precision, config.deterministic)
    if hardware.device.type == "cpu":
        start_threads()
    return hardware


def build_pipeline(config: Config) -> Pipeline:
    """Build the pipeline that turns documents into batches, as `data`, `max_length` and the batch sizes specify."""
    data = config.data
    return Pipeline(
        max_length=config.max_length,
        truncation=Windows(data.window_overlap, data.max_windows) if data.truncation == "windows" else data.truncation,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        order_seed=data.order_seed,
        group_by_length=data.group_by_length,
        cache_dir=data.cache_dir,
    )


def build_backbone(config: Config) -> Backbone:
    """Load the encoder and its tokenizer, re-initialize its top layers, and freeze the weights that are not trained.

    Call `build_model` next, because it initializes the head from the random state that this function leaves.
    """
    seed_everything_at(config.seed, INITIALISATION)
    if config.backbone.lora_rank is not None:
        lora.require_peft()
    backbone = prepared(config, construct(config.backbone))
    if config.backbone.reinit_layers > 0:
        reinitialize_top_layers(backbone, config.backbone.reinit_layers, int(config.backbone.freeze), config.seed)
    freeze(backbone, config.backbone.freeze)
    return (
        backbone if config.backbone.lora_rank is None else replace(backbone, cpu_fallback_reason=lora.FALLBACK_REASON)
    )


def build_tokenizer(config: Config) -> Any:
    """Return the backbone's tokenizer. The encoder is built on the meta device, without memory or weights."""
    with torch.device("meta"):
        return build_backbone(config.with_changes(backbone={"pretrained": False, "reinit_layers": 0})).tokenizer


def prepared(config: Config, backbone: Backbone) -> Backbone:
    """Return the backbone, with gradient checkpointing if the config enables it.

    Raise UserError if `max_length` exceeds the encoder's limit, or if documents are pairs of texts that the backbone
    cannot encode.
    """
    require_length(config.max_length, backbone.name, backbone.max_length)
    if config.data.reads_pairs:
        require_pair_encoding(backbone)
    return recompute_activations(backbone) if config.backbone.gradient_checkpointing else backbone


def require_pair_encoding(backbone: Backbone) -> None:
    """Raise UserError if the tokenizer cannot encode a pair of texts, or gives token types that the encoder lacks."""
    types = pair_template(backbone.tokenizer).types
    num_types = getattr(backbone.encoder.config, "type_vocab_size", None)
    if types is None or not num_types:
        return
    highest = max(*types.prefix, types.first, *types.separator, types.second, *types.suffix)
    if highest >= num_types:
        raise UserError(
            f"backbone={backbone.name}: the tokenizer gives the texts of a pair the token types 0 to {highest}, but "
            f"the encoder has only {num_types:,} token types. Join the columns instead "
            "(data.text_column=[first,second])."
        )


def build_settings(config: Config) -> TrainerSettings:
    """Return the trainer's settings. `micro_batch_size=null` means the batch size."""
    trainer = config.trainer
    return TrainerSettings(
        epochs=config.epochs,
        metric=config.metric,
        patience=trainer.patience,
        seed=config.seed,
        micro_batch_size=config.batch_size if trainer.micro_batch_size is None else trainer.micro_batch_size,
        max_grad_norm=trainer.max_grad_norm,
        log_every=trainer.log_every,
        save_every_minutes=config.checkpoint.every_minutes,
        greedy_soup=trainer.greedy_soup,
        watch_test=trainer.score_test_each_epoch,
    )


def build_model(config: Config, backbone: Backbone, num_labels: int) -> Classifier:
    """Build a new head and the classifier. Raise UserError if the head does not fit the backbone."""
    given = {"hidden_size": backbone.hidden_size, "num_labels": num_labels}
    signature = signature_of_head(config.head)
    reads_several = signature.reads_all_layers or signature.reads_last_layers
    num_states = None
    if reads_several:
        num_states = count_hidden_states(backbone.name, backbone.encoder, int(backbone.tokenizer.pad_token_id))
        given |= {ALL_LAYERS: num_states} if signature.reads_all_layers else {}
    head = construct(config.head, **given)
    layers = layers_read(head)
    if isinstance(layers, int) and num_states is not None:
        require_layers(config.head.name, layers, backbone.name, num_states - 1)
        num_states = layers
    tokens = tokens_read(head, backbone.hidden_size, config.max_length, num_states)
    if backbone.causal and tokens == "first":
        raise UserError(
            f"head={config.head.name} reads only the first token. In backbone={backbone.name}, a decoder-only model, "
            "this token attends to no other token. Use head=last, mean, max, attention, weight_avg or lstm."
        )
    if config.backbone.fast:
        accelerate_head(head)
    if config.loss.dropout_samples > 1:
        sample_dropout(head, config.head.name, config.loss.dropout_samples, config.loss.sample_dropout)
    # A frozen encoder computes all tokens of its last layer, because all heads that read this layer share the cache. An
    # encoder that is frozen only in the first epochs computes all tokens if it fills the cache.
    if not reads_several and (config.backbone.freeze is True or config.uses_feature_cache):
        tokens = "all"
    return Classifier(backbone.encoder, head, tokens=tokens)


def signature_of_head(head: HeadConfig) -> Signature:
    """Return the signature of a head's class, which says whether the head reads several layers."""
    signature = own_signature(head.target)
    if signature is None and list(borrowed_targets(head.node)):
        return Signature()  # `construct` raises for this target
    return signature_of(locate(head.target)) if signature is None else signature


def require_layers(head: str, num_read: int, backbone: str, num_layers: int) -> None:
    """Raise UserError if an encoder of `num_layers` layers has fewer layers than the head reads."""
    if num_read > num_layers:
        raise UserError(
            f"head.{LAST_LAYERS}={num_read}: head={head} reads the last {num_read} layers, but backbone={backbone} has "
            f"{num_layers}. Set head.{LAST_LAYERS} to a number from 1 to {num_layers}."
        )


def build_objective(config: Config, corpus: Corpus, hardware: Hardware) -> Objective:
    """Build the loss. Its class weights, which may depend on the training labels, are placed on the device."""
    weights_C = weights_of_classes(config.loss.class_weights, corpus.train.labels, corpus.label_names)
    weights_C = None if weights_C is None else weights_C.to(hardware.device)
    return Objective(construct(config.loss, class_weights_C=weights_C), config.loss.r_drop)


def build_phases(config: Config, model: Classifier, steps_per_epoch: int) -> Phases:
    """Build the phases of training. Each has its own optimizer, and its own schedule over the steps of the phase."""
    num_head_epochs = config.trainer.head_first_epochs
    phases = []
    if num_head_epochs > 0:
        of_head = config.with_changes(optimizer={"lr": config.trainer.head_first_lr})
        optimizer, schedule = build_optimizer(of_head, model, num_head_epochs * steps_per_epoch, head_only=True)
        phases.append(Phase(0, head_only=True, optimizer=optimizer, schedule=schedule))
    optimizer, schedule = build_optimizer(config, model, (config.epochs - num_head_epochs) * steps_per_epoch)
    phases.append(Phase(num_head_epochs, head_only=False, optimizer=optimizer, schedule=schedule))
    return Phases(model, phases)


def build_optimizer(
    config: Config, model: Classifier, num_steps: int, *, head_only: bool = False
) -> tuple[Optimizer, LRScheduler]:
    """Build an optimizer for all trainable weights or for the head, and its schedule over `num_steps` steps."""
    lr, head_lr, layer_decay = (
        config.optimizer.arguments.get("lr"),
        config.optimizer.head_lr,
        config.optimizer.layer_decay,
    )
    if lr is None and (head_lr != 1 or layer_decay != 1):
        raise UserError(
            f"{config.optimizer.target} has no lr that optimizer.head_lr and optimizer.layer_decay could multiply: set "
            "optimizer.head_lr=1 and optimizer.layer_decay=1."
        )
    num_warmup_steps = round(config.warmup * num_steps)
    try:
        groups = parameter_groups(model, lr=lr, head_lr=head_lr, layer_decay=layer_decay, head_only=head_only)
        optimizer = construct(config.optimizer)(groups)
        schedule = construct(config.schedule)(optimizer, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
    except (TypeError, ValueError) as error:  # for example a beta of 2, or an option that SGD does not have
        raise UserError(f"The optimizer or the schedule rejects its settings: {error}") from error
    return optimizer, schedule


def build_tracker(config: Config, folder: RunFolder, resumed_step: int | None) -> Trackers:
    """Build the trackers of one training run as one context manager. `resumed_step` is None for a new run."""
    return Trackers(tracker_constructors(config, folder, resumed_step))


def tracker_constructors(
    config: Config, folder: RunFolder, resumed_step: int | None
) -> dict[str, Callable[[], Tracker]]:
    """Return a constructor for each chosen tracker, keyed by name. Calling a constructor may fail."""
    tags = (config.head.name, config.backbone.name, config.data.name)
    given = {
        **config.tracker.shared,
        "identity": RunIdentity(study=config.study, name=folder.path.name, job_type="train", tags=tags),
        "config": {**config.plain(), **provenance(config)},
        "folder": folder.study,
        "resumed_step": resumed_step,
    }
    chosen = {} if config.tracker.mode == "disabled" else config.tracker.chosen
    return {name: partial(construct_tracker, section, given) for name, section in chosen.items()}


def construct_tracker(section: OneTrackerConfig, given: Mapping[str, Any]) -> Tracker:
    """Construct one tracker. Pass the arguments in `given` that its constructor accepts."""
    constructor = construct(section)
    parameters = inspect.signature(constructor.func).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return constructor(**{name: value for name, value in given.items() if takes_all or name in parameters})


def provenance(config: Config) -> dict[str, str | None]:
    """Return the fields that a tracker logs with the config: the group, the git commit and the command line."""
    return {
        "group_hash": group_hash(config),
        "group_label": group_label(config),
        "git_commit": git_commit(),
        "command": command_line(),
    }
