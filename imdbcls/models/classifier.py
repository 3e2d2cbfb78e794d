"""The model: a backbone's encoder and a head, from token ids to logits."""

import copy
from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from imdbcls import kernels


class Classifier(nn.Module):
    """Encoder → last hidden states → head → logits (B documents, T tokens, D hidden size, C classes).

    A document that is cut into windows comes as several rows (W windows in all): the encoder and the head see each
    window as a document, and the document's logits are the average of its windows'.

    With `first_token_only` the head gets only the first token where that saves work in the encoder's last layer.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, first_token_only: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.first_token_only = first_token_only
        # Compiles the function that runs the encoder in training; None: it is not compiled.
        self.compile_encode: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether no weight of the encoder is trained."""
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; an encoder that is frozen stays in evaluation mode, so that every pass gives the same."""
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
        places_N: Tensor | None = None,
        hidden_BTD: Tensor | None = None,
    ) -> Tensor:
        """Token ids (int64, padded on the right) and their mask (bool, True at real tokens) to float32 logits_BC.

        `documents_W` is each row's document (int64, ascending from 0), None where each row is one, and `num_documents`
        their number. `places_N` are the places of the real tokens in mask_BT, row by row. Pass what the batch knows of
        these (`Batch.inputs`): to work it out, CUDA would have to be waited for. The encoder's attention never reads
        padding; what it writes there is for the head to leave out. With `hidden_BTD`, its earlier output for these
        rows, the encoder does not run.
        """
        if hidden_BTD is None:
            hidden_BTD = self.encode(input_ids_BT, mask_BT, places_N)
        logits_BC = self.head(hidden_BTD, mask_BT).float()
        return logits_BC if documents_W is None else average_windows(logits_BC, mask_BT, documents_W, num_documents)

    def encode(self, input_ids_BT: Tensor, mask_BT: Tensor, places_N: Tensor | None) -> Tensor:
        """Return the last hidden states_BTD, float32 or the autocast type; or hidden_B1D of the first token."""
        # Scoring is never compiled, so that a checkpoint scores the same everywhere; nor is a single row, which would
        # be compiled again.
        is_compiled = self.training and len(input_ids_BT) > 1
        return kernels.encode(
            self.encoder,
            input_ids_BT,
            mask_BT,
            places_N,
            first_token_only=self.first_token_only,
            compile=self.compile_encode if is_compiled else None,
        )


def average_windows(
    logits_WC: Tensor, mask_WT: Tensor, documents_W: Tensor, num_documents: int | None = None
) -> Tensor:
    """Each document's logits: the average of its windows', weighted by their tokens. Returns logits_BC, as float32.

    A document of one window keeps its logits to the last bit: its weight is exactly one.
    """
    if num_documents is None:
        num_documents = int(documents_W[-1]) + 1
    lengths_W = mask_WT.sum(dim=1).float()
    totals_B = lengths_W.new_zeros(num_documents).index_add(0, documents_W, lengths_W)
    weights_W = lengths_W / totals_B[documents_W]
    zeros_BC = logits_WC.new_zeros(num_documents, logits_WC.shape[1])
    return zeros_BC.index_add(0, documents_W, weights_W.unsqueeze(1) * logits_WC)


def copy_of(model: Classifier) -> Classifier:
    """A copy that has the trained weights for itself and shares those that get no gradient."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters() if not weight.requires_grad})


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """All its weights, or those that get a gradient."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)
