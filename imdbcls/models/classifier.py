"""The model: a backbone's encoder and a head, from token ids to logits."""

import copy
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from imdbcls import kernels


class Classifier(nn.Module):
    """Encoder → hidden states → head → logits.

    The head gets hidden_BTD of the last layer, or hidden_LBTD if it sets `reads_all_layers` (the embeddings and all
    layers) or `reads_last_layers` (its `num_layers` last layers). A document that is split into windows has several
    rows. The encoder and the head process each window like a document, and the logits of the document are the weighted
    average over its windows.

    `tokens` says which token vectors the head needs: "all", only the "first" token, or only the "mean". With "first",
    the last layer of an accelerated BERT or RoBERTa computes only the first token. With "first" or "mean", a head that
    reads several layers gets hidden_LB1D.

    Shape suffixes: L layers, B documents, W windows, T tokens, D hidden size, C classes, N non-padding tokens.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, tokens: kernels.Tokens = "all") -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.tokens: kernels.Tokens = tokens
        # Compiles the function that runs the encoder in training (see `torch_compile`). None: the encoder runs
        # uncompiled.
        self.compile_encode: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None

    @property
    def head_input(self) -> kernels.HeadInput:
        """The layers and the tokens of the hidden states that the head gets."""
        return kernels.HeadInput(layers_read(self.head), self.tokens)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether no weight of the encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode. A frozen encoder stays in evaluation mode, so it has no random dropout."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.encoder.eval()
        return self

    def forward(
        self,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        documents_W: Tensor | None = None,
        num_documents: int | None = None,
        token_indices_N: Tensor | None = None,
        features: Tensor | None = None,
        token_types_BT: Tensor | None = None,
    ) -> Tensor:
        """Compute float32 logits_BC, or logits_SBC in training with multi-sample dropout (S samples).

        - `input_ids_BT`: token ids (int64), padded on the right. `mask_BT`: bool, True at non-padding tokens.
        - `documents_W`: the document of each row (int64, ascending from 0); None if each row is a document.
        - `num_documents`: the number of documents.
        - `token_indices_N`: flat indices of the non-padding tokens in `mask_BT`.
        - `features`: the cached output of the encoder for these rows. If given, the encoder does not run.
        - `token_types_BT`: token types of pairs of texts (int64); None: the encoder's default.

        Pass all values of `Batch.inputs`. If `num_documents` or `token_indices_N` is missing, it is computed here, and
        on CUDA the host then waits for the device. Hidden states at padding are undefined; heads ignore them.
        """
        hidden = self.encode(input_ids_BT, mask_BT, token_indices_N, token_types_BT) if features is None else features
        logits = self.head(hidden, mask_BT).float()
        if documents_W is None:
            return logits
        if logits.dim() == 2:
            return average_windows(logits, mask_BT, documents_W, num_documents)
        return torch.stack([average_windows(each_WC, mask_BT, documents_W, num_documents) for each_WC in logits])

    def encode(
        self,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        token_indices_N: Tensor | None,
        token_types_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the head's input, hidden_BTD or hidden_LBTD, in float32 or the autocast dtype."""
        # Evaluation is never compiled, so that compile=true does not change the metrics of a checkpoint. A batch of one
        # row is not compiled either, because torch.compile would generate separate code for it.
        is_compiled = self.training and len(input_ids_BT) > 1
        return kernels.encode(
            self.encoder,
            input_ids_BT,
            mask_BT,
            token_indices_N,
            head_input=self.head_input,
            token_types_BT=token_types_BT,
            compile=self.compile_encode if is_compiled else None,
        )


def layers_read(head: Any) -> Literal["last", "all"] | int:
    """Return which layers a head reads: "last", "all" (with the embeddings), or a number of last layers."""
    if getattr(head, "reads_last_layers", False):
        return int(head.num_layers)
    return "all" if getattr(head, "reads_all_layers", False) else "last"


def average_windows(
    logits_WC: Tensor, mask_WT: Tensor, documents_W: Tensor, num_documents: int | None = None
) -> Tensor:
    """Average the logits of each document's windows, weighted by the windows' token counts; return float32 logits_BC.

    The logits of a document with a single window do not change, because the weight of that window is exactly one.
    """
    if num_documents is None:
        num_documents = int(documents_W[-1]) + 1
    lengths_W = mask_WT.sum(dim=1).float()
    totals_B = lengths_W.new_zeros(num_documents).index_add(0, documents_W, lengths_W)
    weights_W = lengths_W / totals_B[documents_W]
    zeros_BC = logits_WC.new_zeros(num_documents, logits_WC.shape[1])
    return zeros_BC.index_add(0, documents_W, weights_W.unsqueeze(1) * logits_WC)


def copy_of(model: Classifier) -> Classifier:
    """Copy a model. The copy has its own trainable weights and shares the frozen weights."""
    copied = copy.deepcopy(model, {id(weight): weight for weight in model.parameters() if not weight.requires_grad})
    for module in copied.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # without this, each pass on CUDA would copy the weights into one block
    return copied


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Count the weights of a module, or only the trainable weights."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)
