"""Rules against combinations of config values that are valid individually.

Each rule yields an error message for each combination that it finds.
"""

from collections.abc import Callable, Iterator

from imdbcls.config.schema import Config
from imdbcls.printable import spelled


def lora_freezes(config: Config) -> Iterator[str]:
    rank, frozen = config.backbone.lora_rank, config.backbone.freeze
    if rank is not None and frozen is not False:
        yield (
            f"backbone.lora_rank={rank} and backbone.freeze={spelled(frozen)} cannot be combined: LoRA already freezes "
            "the encoder. Leave out backbone.freeze."
        )


def reinitialized_layers_are_trained(config: Config) -> Iterator[str]:
    num_layers, rank = config.backbone.reinit_layers, config.backbone.lora_rank
    if num_layers == 0:
        return
    refused = f"backbone.reinit_layers={num_layers} and"
    if not config.backbone.pretrained:
        yield (
            f"{refused} backbone.pretrained=false cannot be combined: all layers already have new random weights. "
            "Leave out backbone.reinit_layers."
        )
    if config.backbone.freeze is True:
        yield (
            f"{refused} backbone.freeze=true cannot be combined: the new random layers would not be trained. Leave out "
            "one of them."
        )
    if rank is not None:
        yield (
            f"{refused} backbone.lora_rank={rank} cannot be combined: LoRA would freeze the new random layers and "
            "train only a low-rank update of them. Leave out one of the two keys."
        )


def one_average_of_weights(config: Config) -> Iterator[str]:
    trainer = config.trainer
    averages = {
        "ema_decay": trainer.ema_decay,
        "swa_start": trainer.swa_start,
        "greedy_soup": trainer.greedy_soup or None,
    }
    given = [f"trainer.{name}={spelled(value)}" for name, value in averages.items() if value is not None]
    if len(given) > 1:
        yield (
            f"{' and '.join(given)} cannot be combined: each replaces the evaluated weights with an average. Set only "
            "one of them."
        )
    if trainer.swa_start is not None and trainer.patience is not None:
        yield (
            f"trainer.swa_start={trainer.swa_start:g} and trainer.patience={trainer.patience} cannot be combined: "
            "training could stop before the average starts. Leave out trainer.patience."
        )
    if trainer.greedy_soup and config.epochs == 1:
        yield "trainer.greedy_soup=true needs at least two epochs, because it averages their weights. Increase epochs."


def head_first_leaves_epochs(config: Config) -> Iterator[str]:
    num_epochs, start = config.trainer.head_first_epochs, config.trainer.swa_start
    if num_epochs == 0:
        return
    named = f"trainer.head_first_epochs={num_epochs}"
    if num_epochs >= config.epochs:
        yield (
            f"{named} leaves no epoch of epochs={config.epochs} that trains all weights. Increase epochs, or train "
            "only the head with backbone.freeze=true."
        )
    if config.backbone.freeze is True:
        yield (
            f"{named} and backbone.freeze=true cannot be combined: all epochs already train only the head. Leave out "
            "one of them."
        )
    if config.backbone.reinit_layers > 0:
        yield (
            f"{named} and backbone.reinit_layers={config.backbone.reinit_layers} cannot be combined: the head would be "
            "trained on the output of random layers. Leave out one of them."
        )
    if config.compile:
        yield (
            f"{named} and compile=true cannot be combined: the compiled encoder would not be the same in all epochs. "
            "Leave out compile."
        )
    if start is not None and start * config.epochs < num_epochs:
        yield (
            f"{named} and trainer.swa_start={start:g} cannot be combined with epochs={config.epochs}: the average "
            "would begin in the epochs that train only the head. Increase trainer.swa_start."
        )


def frozen_needs_no_checkpointing(config: Config) -> Iterator[str]:
    if config.backbone.freeze is True and config.backbone.gradient_checkpointing:
        yield (
            "backbone.gradient_checkpointing=true saves no memory with backbone.freeze=true, because no activations "
            "are stored. Leave it out."
        )


def frozen_has_no_layer_decay(config: Config) -> Iterator[str]:
    if config.backbone.freeze is True and config.optimizer.layer_decay != 1:
        yield "optimizer.layer_decay has no effect with backbone.freeze=true: no layer is trained. Leave it out."


def each_position_has_a_weight(config: Config) -> Iterator[str]:
    positions = config.head.arguments.get("num_positions")
    if isinstance(positions, int) and 0 < positions < config.max_length:
        yield (
            f"head.num_positions={positions} is less than max_length={config.max_length}: each token position needs a "
            "weight. Increase head.num_positions."
        )


def r_drop_needs_dropout(config: Config) -> Iterator[str]:
    dropouts = [config.head.arguments.get("dropout", 0)]
    if config.backbone.freeze is not True:  # a frozen encoder has no dropout
        dropouts += [config.backbone.dropout, config.backbone.attention_dropout]
    if config.loss.r_drop > 0 and all(dropout == 0 for dropout in dropouts):
        yield (
            f"loss.r_drop={config.loss.r_drop:g} has no effect without dropout in the trained layers: both passes are "
            "identical. Leave out loss.r_drop, or set head.dropout."
        )


def one_kind_of_dropout_samples(config: Config) -> Iterator[str]:
    if config.loss.r_drop > 0 and config.loss.dropout_samples > 1:
        yield (
            f"loss.r_drop={config.loss.r_drop:g} and loss.dropout_samples={config.loss.dropout_samples} cannot be "
            "combined: both use several dropout masks. Leave out one of them."
        )


def pairs_have_no_windows(config: Config) -> Iterator[str]:
    if config.data.reads_pairs and config.data.truncation == "windows":
        yield (
            "data.pair_column and data.truncation=windows cannot be combined: a window would separate the texts of a "
            "pair. Use data.truncation=head, or join the texts with data.text_column=[first,second]."
        )


def micro_batch_fits(config: Config) -> Iterator[str]:
    micro = config.trainer.micro_batch_size
    if micro is not None and micro > config.batch_size:
        yield (
            f"trainer.micro_batch_size={micro} is larger than batch_size={config.batch_size}. Reduce it, or set it to "
            "null."
        )


EXCLUSIONS: tuple[Callable[[Config], Iterator[str]], ...] = (
    lora_freezes,
    reinitialized_layers_are_trained,
    one_average_of_weights,
    head_first_leaves_epochs,
    frozen_needs_no_checkpointing,
    frozen_has_no_layer_decay,
    each_position_has_a_weight,
    r_drop_needs_dropout,
    one_kind_of_dropout_samples,
    pairs_have_no_windows,
    micro_batch_fits,
)
