"""Multi-sample dropout (Inoue 2019): train the last layer of a head on several dropout masks at once.

Shape suffixes: S samples (dropout masks), B documents, D width of the last layer's input, C classes.
"""

from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn

from imdbcls.errors import UserError


def sample_dropout(head: nn.Module, name: str, num_samples: int, probability: float) -> None:
    """Make the last layer of a head, `output`, return logits_SBC in training: one set of logits per dropout mask.

    The masks are independent and are applied to the input of `output`, after any dropout of the head. All samples share
    the layer's weights. In evaluation, the layer is unchanged. `training.losses.Objective` averages the losses of the
    samples, as in Inoue (2019). In the paper, the masks replace the network's dropout; for this, set `head.dropout=0`.
    Raise UserError if the head has no `output` layer.
    """
    output = getattr(head, "output", None)
    if not isinstance(output, nn.Linear):
        raise UserError(
            f"loss.dropout_samples={num_samples} needs a head that ends in a linear layer with the name `output`, and "
            f"head={name} has none. Set loss.dropout_samples=1."
        )

    def forward(self: nn.Linear, input_BD: Tensor) -> Tensor:
        if not self.training:
            return nn.Linear.forward(self, input_BD)
        return nn.Linear.forward(self, F.dropout(input_BD.expand(num_samples, -1, -1), probability))

    output.forward = MethodType(forward, output)  # type: ignore[method-assign]
