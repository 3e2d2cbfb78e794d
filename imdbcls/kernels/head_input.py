"""Select the hidden states that a head reads: which layers, and which vectors of each layer.

Shape suffixes: L hidden states, B documents, T tokens (padded), N non-padding tokens, D hidden size.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from imdbcls.heads.pooling import token_mean

Tokens = Literal["all", "first", "mean"]


class HeadInput(NamedTuple):
    """What a head reads.

    - `layers`: "last" for the last layer, "all" for the embeddings and all layers, or the number of last layers.
    - `tokens`: "all" token vectors of a layer, the "first" one, or the "mean" of the vectors of the non-padding tokens.
      "mean" needs several layers.

    With "last", the head gets hidden_BTD, otherwise hidden_LBTD. With "first" and "mean", T is 1 and the dtype is
    float32. There is one exception: with "last" and "first", the head gets all tokens if the encoder is not
    accelerated, is a ModernBERT, or has adapters in its last layer.
    """

    layers: Literal["last", "all"] | int = "last"
    tokens: Tokens = "all"

    @property
    def pools(self) -> bool:
        """Whether each of several layers is reduced to one vector per document."""
        return self.layers != "last" and self.tokens != "all"

    def first_state(self, num_layers: int) -> int:
        """Return the index of the lowest hidden state that is read; 0 is the embeddings, `num_layers` the last."""
        if self.layers == "all":
            return 0
        return num_layers + 1 - (1 if self.layers == "last" else self.layers)

    def select(self, states_BTD: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
        """Return hidden_LBTD from the hidden states of all layers. States that are already selected do not change."""
        read_BTD = states_BTD[self.first_state(len(states_BTD) - 1) :]
        return torch.stack([self.vectors(state_BTD, mask_BT) for state_BTD in read_BTD])

    def vectors(self, state_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the vectors of one layer that are read: state_BTD or, in float32, state_B1D."""
        if not self.pools:
            return state_BTD
        return state_BTD[:, :1].float() if self.tokens == "first" else token_mean(state_BTD, mask_BT).unsqueeze(1)

    def packed_vectors(self, state_ND: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Return `vectors` of a layer without padding, state_B1D. Do not call it if all tokens are read.

        `cu_seqlens` has the first row of each document, then N.
        """
        if self.tokens == "first":
            return state_ND.index_select(0, cu_seqlens[:-1]).float().unsqueeze(1)
        documents = state_ND.split(cu_seqlens.diff().tolist())
        return torch.stack([document_TD.mean(0, keepdim=True, dtype=torch.float32) for document_TD in documents])


LAST_LAYER = HeadInput()
