"""`head=attention`: a weighted average of the token vectors, with weights from their content (Yang et al. 2016)."""

from torch import Tensor, nn

from imdbcls.heads.pooling import masked_softmax, weighted_sum


class AttentionHead(nn.Module):
    """a_t = softmax of vᵀ tanh(W h_t + b) over the non-padding tokens → Σ_t a_t h_t → Linear(D, C).

    This is the word-level attention of Yang et al. (2016), equations 5 to 7. The paper applies it to the output of a
    GRU; this head applies it to the output of the encoder.
    """

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.context = nn.Linear(hidden_size, 1, bias=False)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(weighted_sum(self.pooling_weights(hidden_BTD, mask_BT), hidden_BTD))

    def pooling_weights(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return a_t for each token, weights_BT; zero at padding."""
        scores_BT = self.context(self.projection(hidden_BTD).tanh()).squeeze(2)
        return masked_softmax(scores_BT, mask_BT)
