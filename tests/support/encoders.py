"""Small encoders and batches, and the results of a forward and backward pass."""

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 96,
    "num_attention_heads": 3,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "max_position_embeddings": 130,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}


LENGTHS = (37, 5, 64, 1)


def make(model_type: str, pooling: bool = False, **changes: float) -> PreTrainedModel:
    """Build a BERT, RoBERTa or ModernBERT. ModernBERT's second and third layer attend to 8 tokens on both sides."""
    torch.manual_seed(0)
    if model_type == "modernbert":
        sizes = {name: size for name, size in SIZES.items() if name != "attention_probs_dropout_prob"}
        tokens = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
        smaller = {"local_attention": 16, "initializer_range": 0.1}
        model: PreTrainedModel = ModernBertModel(ModernBertConfig(**sizes | tokens | smaller | changes))
    elif model_type == "bert":
        model = BertModel(BertConfig(**SIZES | changes), add_pooling_layer=pooling)
    else:
        model = RobertaModel(RobertaConfig(**SIZES | {"pad_token_id": 1} | changes), add_pooling_layer=pooling)
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name.lower()
        if is_norm or name.endswith("bias"):
            parameter.data.normal_(mean=float(is_norm and name.endswith("weight")), std=0.2)
    return model.eval()


def use_layers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accelerated encoders use PyTorch's operations or the unpadded layers. Any other `path` changes nothing."""
    if path == "operations":
        monkeypatch.setattr("imdbcls.kernels.loading.load", lambda dtype: None)
    elif path == "unpadded":
        monkeypatch.setattr("imdbcls.kernels.unpadded.applies", lambda device: True)


def make_batch(model: PreTrainedModel, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.full((len(lengths), max(lengths)), model.config.pad_token_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, length in enumerate(lengths):
        ids_BT[row, :length] = torch.randint(3, 97, (length,), generator=generator)
        mask_BT[row, :length] = 1
    return ids_BT, mask_BT


def run(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, bf16: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the hidden states of the non-padding tokens, and the gradients of a fixed function of them."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
    hidden_RH = hidden_BTH[mask_BT.bool()]
    torch.manual_seed(2)
    (hidden_RH * torch.randn_like(hidden_RH)).mean().backward()
    return hidden_RH.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
