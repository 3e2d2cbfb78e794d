"""Run a head on test inputs to find out which token vectors it reads.

Shape suffixes: L layers, B documents, T tokens, D hidden size, C classes.
"""

import copy

import torch
from torch import Tensor, nn

from imdbcls.heads.pooling import token_mean
from imdbcls.kernels import Tokens

NUM_DOCUMENTS = 2  # batch normalization needs more than one document


def tokens_read(head: nn.Module, hidden_size: int, num_tokens: int, num_layers: int | None = None) -> Tokens:
    """Return which token vectors the logits depend on: only the "first" token, only the "mean", or "all" tokens.

    Only heads that read several layers are tested for "mean". The arguments are the same as for
    `reads_first_token_only`.
    """
    if reads_first_token_only(head, hidden_size, num_tokens, num_layers):
        return "first"
    if num_layers is not None and reads_mean_only(head, hidden_size, num_tokens, num_layers):
        return "mean"
    return "all"


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
    lengths = dict.fromkeys((min(num_tokens, 2), num_tokens))  # the short test is cheap, and most heads fail it
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
    """Test the head in its current mode. `shape` is the shape of its input, hidden_BTD or hidden_LBTD."""
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    masked = hidden.clone()
    masked[..., 1:, :] = torch.nan
    mask_BT = torch.ones(shape[-3:-1], dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        expected_BC, *others = (_run(head, each, mask_BT) for each in (masked, hidden, hidden[..., :1, :]))
    # The logits must be bit-identical. A head that draws dropout masks for the other tokens does not pass the test.
    return bool(expected_BC.isfinite().all()) and all(torch.equal(expected_BC, logits_BC) for logits_BC in others)


def reads_mean_only(head: nn.Module, hidden_size: int, num_tokens: int, num_layers: int) -> bool:
    """Return whether the logits of a head that reads several layers depend only on each layer's mean over the tokens.

    The head gets all token vectors, then their means. The logits must be finite and bit-identical, in evaluation and in
    training mode. All parameters of the tested copy are set to random numbers. Otherwise, a part of the head that reads
    single tokens would go unnoticed if its initial weights are zero.
    """
    length = min(num_tokens, 3)
    mask_BT = torch.arange(length) < torch.tensor([[length], [max(length - 1, 1)]])
    generator = torch.Generator().manual_seed(0)
    hidden_LBTD = torch.randn((num_layers, NUM_DOCUMENTS, length, hidden_size), generator=generator)
    inputs = (hidden_LBTD, token_mean(hidden_LBTD, mask_BT).unsqueeze(2))
    try:
        for training in (False, True):
            tested = copy.deepcopy(head).train(training)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for parameter in tested.parameters():
                    parameter.normal_(generator=generator)
                expected_BC, logits_BC = (_run(tested, hidden, mask_BT) for hidden in inputs)
            if not expected_BC.isfinite().all() or not torch.equal(expected_BC, logits_BC):
                return False
    except Exception:  # a head may raise any exception for an unexpected input
        return False
    return True


def _run(head: nn.Module, hidden: Tensor, mask_BT: Tensor) -> Tensor:
    torch.default_generator.manual_seed(0)
    return head(hidden, mask_BT)
