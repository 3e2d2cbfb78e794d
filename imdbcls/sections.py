"""Build the objects that single sections of the config describe: the only caller of Hydra's `instantiate`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.config.allowed_targets import borrowed_targets, locate
from imdbcls.config.paths import require_length
from imdbcls.config.signatures import GIVEN_TO_ALL_LAYERS, require_settings
from imdbcls.data.documents import Corpus
from imdbcls.data.pipeline import Pipeline
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
from imdbcls.data.windows import Windows
from imdbcls.errors import UserError
from imdbcls.kernels import accelerate_head
from imdbcls.models import lora
from imdbcls.models.backbone import Backbone, freeze, recompute_activations
from imdbcls.models.classifier import Classifier
from imdbcls.models.encoders import count_hidden_states
from imdbcls.models.head_probe import reads_first_token_only
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import group_hash
from imdbcls.runtime.device import Hardware, choose_hardware, seed_everything_at, start_threads
from imdbcls.tracking import RunIdentity, Tracker
from imdbcls.training.losses import Objective, weights_of_classes
from imdbcls.training.optim import parameter_groups
from imdbcls.training.trainer import TrainerSettings

# Keys of the optimizer section that are not parameters of its `_target_`.
LR_MULTIPLES = ("head_lr", "layer_decay")
INITIALISATION = -1  # the random state of the first weights; training step n draws from state n
# Keys of the backbone section that are not parameters of its `_target_`.
OWN_SETTINGS = ("freeze", "cache", "cache_gb", "lora_rank", "gradient_checkpointing")


def require_buildable(config: Mapping[str, Any]) -> None:
    """Raise UserError, before anything is loaded, for settings that their class or the optimizer would refuse."""
    require_settings(config)
    settings = {key: value for key, value in config["optimizer"].items() if key not in LR_MULTIPLES}
    try:
        construct(settings)([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:  # a beta of 2, a negative weight decay
        raise UserError(f"{settings['_target_']} refuses its settings (optimizer.*): {error}.") from error


def construct(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Call Hydra's `instantiate`; raise the user's mistakes as UserError, without Hydra's wrapper."""
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


def build_hardware(config: Mapping[str, Any]) -> Hardware:
    """Choose device and precision, and start the compute threads; raise UserError for what the machine lacks."""
    hardware = choose_hardware(config["device"], config["precision"], config["deterministic"])
    if hardware.device.type == "cpu":
        start_threads()
    return hardware


def build_corpus(config: Mapping[str, Any]) -> Corpus:
    """Return the documents that `keep_corpus` has read for this process and its parent, else read them now."""
    kept = _kept_corpus.get(corpus_key(config))
    if kept is not None:
        return kept
    settings = {key: config["data"][key] for key in SPLIT_SETTINGS}
    return make_corpus(construct(config["data"]["source"]), **settings)


def keep_corpus(config: Mapping[str, Any]) -> None:
    """Read the documents for all processes that are forked from this one: the jobs of a sweep share them."""
    key = corpus_key(config)
    if key not in _kept_corpus:
        _kept_corpus.clear()
        _kept_corpus[key] = build_corpus(config)


def corpus_key(config: Mapping[str, Any]) -> str:
    return json.dumps({key: config["data"][key] for key in ("source", *SPLIT_SETTINGS)}, sort_keys=True)


_kept_corpus: dict[str, Corpus] = {}  # by `corpus_key`; one at most


def build_pipeline(config: Mapping[str, Any]) -> Pipeline:
    """Return how documents become batches, from the data section, max_length and the batch sizes."""
    data = config["data"]
    truncation: str | Windows = data["truncation"]
    if truncation == "windows":
        truncation = Windows(data["window_overlap"], data["max_windows"])
    return Pipeline(
        max_length=config["max_length"],
        truncation=truncation,
        batch_size=config["batch_size"],
        eval_batch_size=config["eval_batch_size"],
        order_seed=data["order_seed"],
        group_by_length=data["group_by_length"],
        cache_dir=data["cache_dir"],
    )


def build_backbone(config: Mapping[str, Any]) -> Backbone:
    """Load the encoder and its tokenizer; freeze what is not trained.

    Leaves PyTorch's random state where the first weights end: the head's are drawn next, by `build_model`.
    """
    seed_everything_at(config["seed"], INITIALISATION)
    settings = {key: value for key, value in config["backbone"].items() if key not in OWN_SETTINGS}
    if config["backbone"]["lora_rank"] is not None:
        lora.require_peft()
    backbone = fitting(config, construct(settings))
    freeze(backbone, config["backbone"]["freeze"])
    return backbone if config["backbone"]["lora_rank"] is None else replace(backbone, not_fast=lora.NOT_FAST)


def build_tokenizer(config: Mapping[str, Any]) -> Any:
    """Return the tokenizer of the backbone; the encoder is built on the meta device, without memory or weights."""
    with torch.device("meta"):
        return build_backbone({**config, "backbone": {**config["backbone"], "pretrained": False}}).tokenizer


def fitting(config: Mapping[str, Any], backbone: Backbone) -> Backbone:
    """Set gradient checkpointing; raise UserError if the encoder takes fewer tokens than max_length."""
    require_length(config["max_length"], backbone.name, backbone.max_length)
    return recompute_activations(backbone) if config["backbone"]["gradient_checkpointing"] else backbone


def build_settings(config: Mapping[str, Any]) -> TrainerSettings:
    """Return the trainer's settings; `micro_batch_size=null` is the whole batch."""
    settings = config["trainer"]
    micro_batch_size = settings["micro_batch_size"]
    return TrainerSettings(
        epochs=config["epochs"],
        patience=settings["patience"],
        seed=config["seed"],
        micro_batch_size=config["batch_size"] if micro_batch_size is None else micro_batch_size,
        max_grad_norm=settings["max_grad_norm"],
        log_every=settings["log_every"],
        save_every_minutes=config["checkpoint"]["every_minutes"],
        watch_test=settings["score_test_each_epoch"],
    )


def build_model(config: Mapping[str, Any], backbone: Backbone, num_labels: int) -> Classifier:
    """Put a new head on the backbone; raise UserError for a head that does not fit it."""
    settings = {key: value for key, value in config["head"].items() if key != "name"}
    given = {"hidden_size": backbone.hidden_size, "num_labels": num_labels, **given_to_all_layers(settings, backbone)}
    head = construct(settings, **given)
    num_hidden_states = given.get(GIVEN_TO_ALL_LAYERS)
    first_token_only = reads_first_token_only(head, backbone.hidden_size, config["max_length"], num_hidden_states)
    if backbone.causal and first_token_only:
        raise UserError(
            f"head={config['head']['name']} reads only the first token, which sees no other token in "
            f"backbone={backbone.name}, a decoder-only model: use head=mean, max, attention, weight_avg or lstm."
        )
    if config["backbone"]["fast"]:
        accelerate_head(head)
    # A frozen encoder gives every head the same vectors, from the cache or not.
    computes_first_only = first_token_only and num_hidden_states is None and config["backbone"]["freeze"] is not True
    return Classifier(backbone.encoder, head, first_token_only=computes_first_only)


def given_to_all_layers(settings: Mapping[str, Any], backbone: Backbone) -> dict[str, int]:
    """Return what a head that reads all layers gets in addition: the number of hidden states."""
    if list(borrowed_targets(settings)) or not getattr(locate(settings["_target_"]), "reads_all_layers", False):
        return {}
    pad_id = int(backbone.tokenizer.pad_token_id)
    return {GIVEN_TO_ALL_LAYERS: count_hidden_states(backbone.name, backbone.encoder, pad_id)}


def build_objective(config: Mapping[str, Any], corpus: Corpus, hardware: Hardware) -> Objective:
    """Build the loss with its class weights, which the training documents may determine, on the device."""
    settings = dict(config["loss"])
    r_drop, wanted = settings.pop("r_drop"), settings.pop("class_weights")
    weights_C = weights_of_classes(wanted, corpus.train.labels, corpus.label_names)
    weights_C = None if weights_C is None else weights_C.to(hardware.device)
    return Objective(construct(settings, class_weights_C=weights_C), r_drop)


def build_optimizer(config: Mapping[str, Any], model: Classifier, num_steps: int) -> tuple[Optimizer, LRScheduler]:
    """Build the optimizer of the trainable weights, and its schedule over `num_steps` steps."""
    settings = dict(config["optimizer"])
    multiples = {key: settings.pop(key) for key in LR_MULTIPLES}
    if "lr" not in settings and set(multiples.values()) != {1}:
        raise UserError(
            f"optimizer.head_lr and layer_decay are multiples of an lr, and {settings['_target_']} has none."
        )
    num_warmup_steps = round(config["warmup"] * num_steps)
    try:
        optimizer = construct(settings)(parameter_groups(model, lr=settings.get("lr"), **multiples))
        schedule = construct(config["schedule"])(optimizer, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
    except (TypeError, ValueError) as error:  # a beta of 2, an option that SGD does not have
        raise UserError(f"The optimizer or its schedule refuses its settings: {error}") from error
    return optimizer, schedule


def build_tracker(config: Mapping[str, Any], folder: RunFolder, resumed_step: int | None) -> Tracker:
    """Build the tracker of one training run; open it by `with`. `resumed_step` is None for a new run."""
    tags = (config["head"]["name"], config["backbone"]["name"], config["data"]["name"])
    identity = RunIdentity(study=config["study"], name=folder.path.name, job_type="train", tags=tags)
    return construct(config["tracker"])(
        identity=identity,
        config={**config, "group_hash": group_hash(config)},
        folder=folder.study,
        resumed_step=resumed_step,
    )
