"""The model: a backbone's encoder and a head, from token ids to logits."""

import copy
from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from imdbcls import kernels


class Classifier(nn.Module):
    """Encoder → hidden states → head → logits (L layers, B documents, T tokens, D hidden size, C classes).

    The head reads the last hidden states_BTD; if it sets `reads_all_layers`, hidden_LBTD of the embeddings and all
    layers. A document that is cut into windows comes as several rows (W windows in all): the encoder and the head
    process each window as a document, and the document's logits are the average of its windows'.

    With `first_token_only` the head gets hidden_B1D of the first token if the encoder can save work by that.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, first_token_only: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.first_token_only = first_token_only
        # Compiles the function that runs the encoder in training; None if it is not compiled.
        self.compile_encode: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None

    @property
    def reads_all_layers(self) -> bool:
        """Whether the head reads the embeddings and all layers, not only the last one."""
        return getattr(self.head, "reads_all_layers", False)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether no weight of the encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation mode, so that every pass gives the same."""
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
    ) -> Tensor:
        """Compute float32 logits_BC from token ids (int64, padded on the right) and their mask (bool, True at tokens).

        `documents_W` is the document of each row (int64, ascending from 0), None if each row is one; `num_documents` is
        their number. `token_indices_N` are the flat indices of the tokens in mask_BT. Pass what the batch knows of
        these (`Batch.inputs`): computing them would wait for CUDA. Padding's hidden states are undefined; the head
        ignores them. With `features`, the encoder's earlier output for these rows, the encoder does not run.
        """
        hidden = self.encode(input_ids_BT, mask_BT, token_indices_N) if features is None else features
        logits_BC = self.head(hidden, mask_BT).float()
        return logits_BC if documents_W is None else average_windows(logits_BC, mask_BT, documents_W, num_documents)

    def encode(self, input_ids_BT: Tensor, mask_BT: Tensor, token_indices_N: Tensor | None) -> Tensor:
        """Return what the head reads: hidden_BTD, hidden_B1D or hidden_LBTD, float32 or the autocast type."""
        # Scoring is never compiled, so that a checkpoint scores the same everywhere. A single row is not compiled
        # either: it would be compiled separately.
        is_compiled = self.training and len(input_ids_BT) > 1
        return kernels.encode(
            self.encoder,
            input_ids_BT,
            mask_BT,
            token_indices_N,
            first_token_only=self.first_token_only,
            all_layers=self.reads_all_layers,
            compile=self.compile_encode if is_compiled else None,
        )


def average_windows(
    logits_WC: Tensor, mask_WT: Tensor, documents_W: Tensor, num_documents: int | None = None
) -> Tensor:
    """Average the logits of each document's windows, weighted by their tokens; float32 logits_BC.

    A document of one window keeps its logits exactly: its weight is one.
    """
    if num_documents is None:
        num_documents = int(documents_W[-1]) + 1
    lengths_W = mask_WT.sum(dim=1).float()
    totals_B = lengths_W.new_zeros(num_documents).index_add(0, documents_W, lengths_W)
    weights_W = lengths_W / totals_B[documents_W]
    zeros_BC = logits_WC.new_zeros(num_documents, logits_WC.shape[1])
    return zeros_BC.index_add(0, documents_W, weights_W.unsqueeze(1) * logits_WC)


def copy_of(model: Classifier) -> Classifier:
    """Copy a model: the copy has its own trainable weights and shares the frozen ones."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters() if not weight.requires_grad})


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Count all weights of a module, or only those that get a gradient."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)
