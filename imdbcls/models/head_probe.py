"""Run a head on test inputs to find out whether it reads only the first token.

Shape suffixes: L layers, B documents, T tokens, D hidden size, C classes.
"""

import copy

import torch
from torch import Tensor, nn

NUM_DOCUMENTS = 2  # batch normalization needs more than one


def reads_first_token_only(head: nn.Module, hidden_size: int, num_tokens: int, num_layers: int | None = None) -> bool:
    """Return whether the logits depend only on the first token of each document.

    The head gets three inputs with the same first tokens. The vectors of the other tokens are NaN in the first input,
    finite in the second, and missing in the third. The head reads only the first token if the logits are finite and
    equal for all three, in evaluation and in training mode. If the head raises an exception, the result is False.

    The test uses documents of two tokens, then of `num_tokens` tokens. `num_layers` is the number of layers that the
    head gets, or None if it gets only the last layer. The test uses a copy of the head and does not change PyTorch's
    random state on the CPU.
    """
    layers = () if num_layers is None else (num_layers,)
    lengths = dict.fromkeys((min(num_tokens, 2), num_tokens))  # with two tokens, most heads fail the test cheaply
    try:
        return all(
            _reads_first_token_only(copy.deepcopy(head).train(training), (*layers, NUM_DOCUMENTS, length, hidden_size))
            for length in lengths
            for training in (False, True)
        )
    except Exception:  # a head may raise any exception for an unexpected input
        return False


@torch.no_grad()
def _reads_first_token_only(head: nn.Module, shape: tuple[int, ...]) -> bool:
    """Test the head in its current mode, on inputs of one shape: that of hidden_BTD or hidden_LBTD."""
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    masked = hidden.clone()
    masked[..., 1:, :] = torch.nan
    mask_BT = torch.ones(shape[-3:-1], dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        expected_BC, *others = (_run(head, each, mask_BT) for each in (masked, hidden, hidden[..., :1, :]))
    # The logits must be bit-identical. A head that draws dropout masks for the other tokens does not pass the test.
    return bool(expected_BC.isfinite().all()) and all(torch.equal(expected_BC, logits_BC) for logits_BC in others)


def _run(head: nn.Module, hidden: Tensor, mask_BT: Tensor) -> Tensor:
    torch.default_generator.manual_seed(0)
    return head(hidden, mask_BT)
