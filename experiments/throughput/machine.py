"""What the machine could do at most, and how much of it a document needs."""

import time
from collections.abc import Iterable

import torch
from torch import nn

# Squares of these sizes: the fastest is small in float32 (what stays in the cache) and large in bfloat16 (AMX, GPUs).
SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}
SECONDS_PER_SIZE = 0.5


def matrix_peak_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The highest rate of a matrix product that this device was seen to reach, in 10^9 operations a second."""
    return max(product_gflops(device, dtype, size) for size in SIZES[device.type])


def product_gflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """The best of the products of two (size, size) matrices that fit into half a second, at least three."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    best, began, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - began < SECONDS_PER_SIZE:
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
        count += 1
    return 2 * size**3 / best / 1e9


def forward_flops(encoder: nn.Module, lengths: Iterable[int], first_token_alone: bool) -> int:
    """Operations that documents of these lengths (real tokens) need in one forward pass of the encoder's layers.

    A product's weight costs two operations a token, full attention 4 T H for each of a layer's T tokens: T H products
    and sums for the scores, as many for the context. With `first_token_alone` the last layer's weights meet one token
    of each document, and each of its heads all T hidden states twice. A backward pass costs twice a forward one. Not
    counted: padding, softmax, activations, norms, embeddings and the head, whose products meet one token a document.
    """
    config = encoder.config
    weights = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, nn.Linear))
    last = weights // config.num_hidden_layers

    def of_document(length: int) -> int:
        every_token = 2 * weights * length + 4 * config.num_hidden_layers * config.hidden_size * length**2
        if not first_token_alone:
            return every_token
        left_out = 2 * last * length + 4 * config.hidden_size * length**2
        return every_token - left_out + 2 * last + 4 * config.num_attention_heads * config.hidden_size * length

    return sum(map(of_document, lengths))
