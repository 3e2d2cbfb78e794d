"""Find out by a trial run whether a head reads only the first token.

L layers, B documents, T tokens, D hidden size.
"""

import copy

import torch
from torch import Tensor, nn

NUM_DOCUMENTS = 2  # batch normalization needs more than one


def reads_first_token_only(head: nn.Module, hidden_size: int, num_tokens: int, num_layers: int | None = None) -> bool:
    """Return whether the logits depend on no token vector except the first of each document.

    The head gets documents of `num_tokens` tokens whose other vectors are NaN, then numbers, then missing. It reads
    only the first token if the logits are finite and the same for all three, in evaluation and in training mode. A head
    that fails on such an input counts as one that reads all tokens. `num_layers` is the number of layers that the head
    receives, None for the last one only.

    The trial runs on a copy of the head; PyTorch's random state on the CPU stays as it is.
    """
    layers = () if num_layers is None else (num_layers,)
    lengths = dict.fromkeys((min(num_tokens, 2), num_tokens))  # two tokens refute most heads, for little work
    try:
        return all(
            _reads_first_token_only(copy.deepcopy(head).train(training), (*layers, NUM_DOCUMENTS, length, hidden_size))
            for length in lengths
            for training in (False, True)
        )
    except Exception:  # a head may raise anything for an input that it does not expect
        return False


@torch.no_grad()
def _reads_first_token_only(head: nn.Module, shape: tuple[int, ...]) -> bool:
    """`shape` is that of hidden_BTD or hidden_LBTD."""
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    masked = hidden.clone()
    masked[..., 1:, :] = torch.nan
    mask_BT = torch.ones(shape[-3:-1], dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        expected_BC, *others = (_run(head, each, mask_BT) for each in (masked, hidden, hidden[..., :1, :]))
    # Equal to the bit: the same operations on the same numbers, if a head does not even draw dropout masks for others.
    return bool(expected_BC.isfinite().all()) and all(torch.equal(expected_BC, logits_BC) for logits_BC in others)


def _run(head: nn.Module, hidden: Tensor, mask_BT: Tensor) -> Tensor:
    torch.default_generator.manual_seed(0)
    return head(hidden, mask_BT)
