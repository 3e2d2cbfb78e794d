"""The model: a backbone's encoder and a head, from token ids to logits."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Encoder → last hidden states → head → logits (B documents, T tokens, D hidden size, C classes)."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Token ids (int64, padded on the right) and their mask (bool, True at real tokens) to float32 logits_BC.

        The encoder's attention never reads padding; what it writes there is for the head to leave out.
        """
        hidden_BTD = self.encoder(input_ids=input_ids_BT, attention_mask=mask_BT).last_hidden_state
        return self.head(hidden_BTD, mask_BT).float()


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
