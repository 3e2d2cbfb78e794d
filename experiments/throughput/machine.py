"""Measure the peak rate of matrix products on the machine, and count the operations of a forward pass."""

import time
from collections.abc import Iterable

import torch
from torch import nn

# Sizes of square matrices. In float32, small matrices are fastest, because they fit in the cache. In bfloat16 (AMX,
# GPUs), large matrices are fastest.
SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}
SECONDS_PER_SIZE = 0.5


def matrix_peak_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest measured rate of a matrix product on this device, in 10^9 operations per second."""
    return max(product_gflops(device, dtype, size) for size in SIZES[device.type])


def product_gflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the best rate of repeated (size, size) matrix products, run for half a second and at least three times."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    best, first_started, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - first_started < SECONDS_PER_SIZE:
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
        count += 1
    return 2 * size**3 / best / 1e9


def forward_flops(encoder: nn.Module, lengths: Iterable[int], first_token_only: bool) -> int:
    """Return the number of operations of one forward pass of the encoder layers over documents.

    `lengths` are the numbers of real tokens of the documents. Each weight of a linear layer costs two operations per
    token. In each layer, full attention costs 4 T H operations for each of the T tokens of a document: 2 T H for the
    scores, and 2 T H for the weighted sum of the values (H: hidden size). With `first_token_only`, the weights of the
    last layer apply to one token per document, and each of its attention heads reads all T hidden states twice.
    Padding, softmax, activations, norms, embeddings and the head are not counted; the head's products apply to one
    token per document. A backward pass costs twice as much as a forward pass.
    """
    config = encoder.config
    weights = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, nn.Linear))
    last = weights // config.num_hidden_layers

    def of_document(length: int) -> int:
        every_token = 2 * weights * length + 4 * config.num_hidden_layers * config.hidden_size * length**2
        if not first_token_only:
            return every_token
        skipped = 2 * last * length + 4 * config.hidden_size * length**2
        return every_token - skipped + 2 * last + 4 * config.num_attention_heads * config.hidden_size * length

    return sum(map(of_document, lengths))
