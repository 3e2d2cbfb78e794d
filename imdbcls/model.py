"""The model: a backbone's encoder and a head, from token ids to logits."""

from typing import Self

from torch import Tensor, nn


class Classifier(nn.Module):
    """Encoder → last hidden states → head → logits (B documents, T tokens, D hidden size, C classes)."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

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

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, hidden_BTD: Tensor | None = None) -> Tensor:
        """Token ids (int64, padded on the right) and their mask (bool, True at real tokens) to float32 logits_BC.

        The encoder's attention never reads padding; what it writes there is for the head to leave out. With
        `hidden_BTD`, what the encoder gave for these tokens before, it is not asked again.
        """
        if hidden_BTD is None:
            hidden_BTD = self.encode(input_ids_BT, mask_BT)
        return self.head(hidden_BTD, mask_BT).float()

    def encode(self, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The encoder's last hidden states, hidden_BTD."""
        return self.encoder(input_ids=input_ids_BT, attention_mask=mask_BT).last_hidden_state


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """All its weights, or those that get a gradient."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)
