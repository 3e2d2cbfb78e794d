"""The model: a backbone's encoder and a head, from token ids to logits."""

from collections.abc import Callable

from torch import Tensor, nn

from imdbcls.fast import unpadded
from imdbcls.fast.masks import attention_mask


class Classifier(nn.Module):
    """Encoder → last hidden states → head → logits (B documents, T tokens, D hidden size, C classes).

    With `unpadded` the encoder leaves the padding out of its computation, where there is a kernel for that.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, unpadded: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.unpadded = unpadded
        self.compiled_encode: Callable[..., Tensor] | None = None  # what training takes instead of `encode`

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, places_N: Tensor | None = None) -> Tensor:
        """Token ids (int64, padded on the right) and their mask (bool, True at real tokens) to float32 logits_BC.

        `places_N` are the real tokens' places among all B * T; without them CUDA is waited for. The encoder's attention
        never reads padding; what it writes there is for the head to leave out.
        """
        encode = self.encode
        # Scoring is never compiled, so that a checkpoint scores the same wherever it is read.
        if self.compiled_encode is not None and self.training and len(input_ids_BT) > 1:
            encode = self.compiled_encode
        return self.head(encode(input_ids_BT, mask_BT, places_N), mask_BT).float()

    def encode(self, input_ids_BT: Tensor, mask_BT: Tensor, places_N: Tensor | None) -> Tensor:
        """The last hidden states_BTD, float32 or the autocast type."""
        if self.unpadded and unpadded.applies(input_ids_BT.device):
            places_N = unpadded.places_of(mask_BT) if places_N is None else places_N
            return unpadded.encode(self.encoder, input_ids_BT, mask_BT, places_N)
        mask = attention_mask(self.encoder, mask_BT)
        return self.encoder(input_ids=input_ids_BT, attention_mask=mask).last_hidden_state


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
