"""Run an encoder on a few tokens to check whether it can be used. There is no list of supported models.

Shape suffixes: L layers, B documents, T tokens, D hidden size.
"""

import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from imdbcls.data.batch import round_up
from imdbcls.errors import UserError
from imdbcls.kernels import HeadInput, attention_mask, encode
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.limits import is_out_of_memory

logger = logging.getLogger(__name__)

LENGTHS = (21, 6, 1)  # lengths of the example documents in tokens
# The largest relative change of the output that padding may cause. Rounding causes about 1e-6. In encoders that read
# padding (FNet, Nystromformer, ConvBERT, YOSO, MobileBERT), the output changes by 1e-2 or more.
TOLERANCE = 1e-3
LENGTH_LIMITS = ("max_position_embeddings", "max_encoder_position_embeddings")
PADDING_SUBSTITUTES = ("eos_token", "sep_token", "cls_token", "bos_token", "unk_token")


def prepare_config(config: PretrainedConfig) -> None:
    """Disable options that only text generation needs, and options that make the output random."""
    if getattr(config, "use_cache", False) and config.model_type not in ("bert", "roberta"):
        config.use_cache = False
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"
        logger.warning(
            f"{config.model_type}: using full instead of sparse attention, because sparse attention is random and "
            "depends on the padded length of a batch."
        )


def text_encoder(model: Any) -> Any:
    """Return the encoder of an encoder-decoder model (T5, BART); return any other model unchanged."""
    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    return encoder if isinstance(encoder, PreTrainedModel) and isinstance(decoder, nn.Module) else model


def drop_pooler(encoder: Any) -> None:
    """Remove the pooling layer, which the head replaces, if the architecture has an option to omit it."""
    if hasattr(encoder, "pooler") and "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
        encoder.register_module("pooler", None)


def longest_document(encoder: Any) -> int | None:
    """Return the maximum number of tokens that an encoder accepts, or None if there is no limit."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's positions begin at padding_idx + 1
    found = (getattr(encoder.config, name, None) for name in LENGTH_LIMITS)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def give_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a padding token if the tokenizer has none.

    Any token can be used, because `require_encoder` checks that padding does not change the output.
    """
    if tokenizer.pad_token_id is None:
        named = (getattr(tokenizer, name) for name in PADDING_SUBSTITUTES)
        tokenizer.pad_token = next((token for token in named if token is not None), None) or (
            tokenizer.convert_ids_to_tokens(0)
        )


def require_vocabulary(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has an id for which the encoder has no embedding."""
    try:
        embeddings: Any = encoder.get_input_embeddings()
        num_embeddings = embeddings.weight.shape[0]
    except (AttributeError, NotImplementedError) as error:
        raise UserError(
            f"backbone={name}: {type(encoder).__name__} has no token embeddings. Use another backbone."
        ) from error
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if highest >= num_embeddings:
        raise UserError(
            f"backbone={name}: the tokenizer needs {highest + 1:,} embeddings (its last token is {token[:40]!a}), but "
            f"the encoder has {num_embeddings:,}. Use the tokenizer that belongs to the weights, or resize the model "
            f"once with transformers: model.resize_token_embeddings({highest + 1}), then model.save_pretrained(FOLDER) "
            "and tokenizer.save_pretrained(FOLDER); then set backbone.path=FOLDER."
        )


def require_encoder(name: str, encoder: PreTrainedModel, pad_id: int) -> bool:
    """Raise UserError if an encoder cannot be used for classification; return whether the encoder is causal.

    The output must be one vector of `hidden_size` numbers per token, deterministic, and independent of the padding and
    of the other documents in the batch. In a causal encoder (a decoder-only model), a token attends only to itself and
    to earlier tokens.
    """
    refused = f"backbone={name}: {type(encoder).__name__} cannot be used"
    was_training, ids_BT = encoder.training, example_ids(encoder, pad_id)
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            together_BTD = vectors(encoder, ids_BT, LENGTHS)
            again_BTD = vectors(encoder, ids_BT, LENGTHS)
            single = [vectors(encoder, ids_BT[[row], : round_up(n)], (n,))[0, :n] for row, n in enumerate(LENGTHS)]
            changed_BT = ids_BT.clone()
            changed_BT[0, 1] = changed_BT[0, 2]
            changed_BTD = vectors(encoder, changed_BT, LENGTHS)
    except Exception as error:  # a model may raise any exception for an input that it does not support
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{refused}: a test pass over token ids failed ({type(error).__name__}: {reason}). Use another backbone."
        ) from error
    finally:
        encoder.train(was_training)
    size = getattr(encoder.config, "hidden_size", None)
    if together_BTD.shape != (*ids_BT.shape, size):
        raise UserError(
            f"{refused}: its output for tokens of shape {tuple(ids_BT.shape)} has shape {tuple(together_BTD.shape)}. "
            f"Expected {(*ids_BT.shape, size)}, because config.json has hidden_size={size}. Use another backbone."
        )
    rows = list(zip(together_BTD, again_BTD, LENGTHS, single, strict=True))
    if not all(torch.isfinite(row_TD[:n]).all() for row_TD, _, n, _ in rows):
        raise UserError(f"{refused}: its output is not finite (NaN or infinity). Use another backbone.")
    if not all(torch.equal(row_TD[:n], again_TD[:n]) for row_TD, again_TD, n, _ in rows):
        raise UserError(f"{refused}: two passes over the same tokens give different outputs. Use another backbone.")
    scale = torch.cat([row_TD[:n] for row_TD, _, n, _ in rows]).abs().mean()
    # Divide each change by the mean absolute value plus the value's own magnitude, because a few dimensions may be a
    # thousand times larger than the other dimensions.
    changes = [(row_TD[:n] - single_TD).abs() / (scale + single_TD.abs()) for row_TD, _, n, single_TD in rows]
    difference = max(float(change_TD.max()) for change_TD in changes)
    if difference > TOLERANCE:
        raise UserError(
            f"{refused}: padding changes its output by {difference:.1%}, so the predicted class would depend on the "
            "other documents in the batch. Use another backbone."
        )
    return torch.equal(together_BTD[0, 0], changed_BTD[0, 0])


def count_hidden_states(name: str, encoder: PreTrainedModel, pad_id: int) -> int:
    """Return the number of hidden states of an encoder: the embeddings and one for each layer.

    Raise UserError if the encoder does not return all of them, each with `hidden_size` numbers per token.
    """
    refused = f"backbone={name}: {type(encoder).__name__} cannot be used with a head that reads several layers"
    was_training, ids_BT = encoder.training, example_ids(encoder, pad_id)
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            hidden_LBTD = encode(encoder, ids_BT, mask_of(LENGTHS), head_input=HeadInput("all"))
    except Exception as error:  # a model may raise any exception for an option that it does not support
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{refused}: it does not return hidden states ({type(error).__name__}: {reason}). Use another head."
        ) from error
    finally:
        encoder.train(was_training)
    if hidden_LBTD.shape[1:] != (*ids_BT.shape, encoder.config.hidden_size):
        raise UserError(
            f"{refused}: its hidden states have shape {tuple(hidden_LBTD.shape)}. Expected (layers, "
            f"{', '.join(map(str, ids_BT.shape))}, {encoder.config.hidden_size}). Use another head."
        )
    if not hidden_LBTD[:, mask_of(LENGTHS)].isfinite().all():
        raise UserError(f"{refused}: its hidden states are not finite (NaN or infinity). Use another head.")
    return len(hidden_LBTD)


def require_precision(name: str, encoder: Any, hardware: Hardware) -> None:
    """Raise UserError if an encoder fails in the precision of `hardware`.

    Some encoders mask attention with a number that only float32 can represent.
    """
    if hardware.precision == "fp32" or encoder.config.model_type in ("bert", "roberta"):
        return
    problem = "its output is NaN or infinite"
    was_training, ids_BT = encoder.training, example_ids(encoder, 0).to(hardware.device)
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), hardware.forward_pass():
            mask_BT = mask_of(LENGTHS).to(hardware.device)
            found_BTD = encoder(input_ids=ids_BT, attention_mask=attention_mask(encoder, mask_BT)).last_hidden_state
        if torch.isfinite(found_BTD[mask_BT]).all():
            return
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        problem = (str(error).splitlines() or [""])[0][:200]
    finally:
        encoder.train(was_training)
    raise UserError(
        f"backbone={name}: {type(encoder).__name__} fails in {hardware.precision} ({problem}); set precision=fp32."
    )


def example_ids(encoder: Any, pad_id: int) -> Tensor:
    """Return random ids_BT for padded documents with `LENGTHS` tokens. PyTorch's random state does not change."""
    num_embeddings = encoder.get_input_embeddings().weight.shape[0]
    ids = [token for token in range(num_embeddings) if token != pad_id]
    generator = torch.Generator().manual_seed(0)
    drawn_BT = torch.tensor(ids)[torch.randint(len(ids), (len(LENGTHS), round_up(max(LENGTHS))), generator=generator)]
    return torch.where(mask_of(LENGTHS), drawn_BT, pad_id)


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(round_up(max(lengths))) < torch.tensor(lengths)[:, None]


def vectors(encoder: Any, ids_BT: Tensor, lengths: tuple[int, ...]) -> Tensor:
    return encoder(input_ids=ids_BT, attention_mask=attention_mask(encoder, mask_of(lengths))).last_hidden_state.float()
