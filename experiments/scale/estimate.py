"""Estimate speed and cost on several GPUs: `python experiments/scale/estimate.py` prints the tables of the README.

These are estimates from formulas and assumptions, not measurements. When measurements are available, change the
constants and run the script again.
"""

import math
from statistics import NormalDist

# RoBERTa-base with the head cls.
NUM_PARAMETERS = 124_647_170
LAYERS, HIDDEN = 12, 768
LAYER_WEIGHTS = LAYERS * 12 * HIDDEN**2  # per layer, 4 H² in attention and 8 H² in the feed-forward part
BYTES_PER_GRADIENT = 4  # float32

# The number of tokens of an IMDB review is nearly log-normal, with median 224 and mean 302.
LOG_MEAN, LOG_DEVIATION, MAX_LENGTH = 5.41, 0.773, 512

# Assumptions. None is measured.
PEAK = 989e12  # FLOP/s of an H100 (SXM) in dense bfloat16, from the data sheet
MFU = 0.25  # share of the peak while the GPU computes; the goals are 0.20 to 0.35
LAUNCH_SECONDS = 0.010  # a step takes at least as long as its kernel launches: about 1,500, each 6 to 7 µs
OVERHEAD_SECONDS = 60.0  # per run, for imports, tokenization, and loading and saving weights
NVLINK, ETHERNET = 300e9, 10e9  # bytes per second and GPU in an all-reduce: within a machine, between machines
GPUS_PER_MACHINE = 8
EPOCHS, VALIDATION_FRACTION = 3, 0.1


def mean_of_power(power: int) -> float:
    """Return the mean of min(T, MAX_LENGTH)^power, where the number of tokens T is log-normal."""
    normal, limit = NormalDist(LOG_MEAN, LOG_DEVIATION), math.log(MAX_LENGTH)
    variance = LOG_DEVIATION**2
    below = math.exp(power * LOG_MEAN + power**2 * variance / 2) * normal.cdf(limit - power * variance)
    return below + MAX_LENGTH**power * (1 - normal.cdf(limit))


def forward_flops() -> float:
    """Return the mean number of operations of a forward pass over one document."""
    return 2 * LAYER_WEIGHTS * mean_of_power(1) + 4 * LAYERS * HIDDEN * mean_of_power(2)


def all_reduce_bytes(num_gpus: int) -> float:
    """Return the bytes that each GPU sends in a step, in a ring all-reduce of the gradients."""
    return 2 * (num_gpus - 1) / num_gpus * NUM_PARAMETERS * BYTES_PER_GRADIENT


def step_seconds(batch_size: int, num_gpus: int) -> float:
    """Return the seconds of a step. The all-reduce overlaps with the backward pass (2/3 of the computation)."""
    documents = math.ceil(batch_size / num_gpus)
    computing = max(LAUNCH_SECONDS, documents * 3 * forward_flops() / (MFU * PEAK))
    bandwidth = NVLINK if num_gpus <= GPUS_PER_MACHINE else ETHERNET
    return computing + max(0.0, all_reduce_bytes(num_gpus) / bandwidth - computing * 2 / 3)


def gpu_hours(num_documents: int, num_runs: int) -> float:
    """Return the GPU-hours of a study with as many test documents as training documents, on one GPU per run."""
    trained = EPOCHS * (1 - VALIDATION_FRACTION) * num_documents
    evaluated = EPOCHS * VALIDATION_FRACTION * num_documents + num_documents
    seconds = (3 * trained + evaluated) * forward_flops() / (MFU * PEAK)
    return num_runs * (seconds + OVERHEAD_SECONDS) / 3600


def speed_table() -> str:
    """Return documents per second, and in brackets the speed relative to one GPU, by batch size and number of GPUs."""
    numbers = (1, 2, 8, 16, 64)
    rows = [
        "| documents per step | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in numbers) + " |",
        "| --- " * (1 + len(numbers)) + "|",
    ]
    for batch_size in (16, 64, 256, 2048):
        base = step_seconds(batch_size, 1)
        cells = [
            f"{batch_size / step:,.0f} ({base / step:.1f} x)" for step in (step_seconds(batch_size, n) for n in numbers)
        ]
        rows.append(f"| {batch_size:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def cost_table() -> str:
    """Return GPU-hours by number of documents, heads and seeds."""
    studies = [(heads, seeds) for heads in (2, 3, 7) for seeds in (3, 10)]
    rows = [
        "| training documents | " + " | ".join(f"{heads} heads, {seeds} seeds" for heads, seeds in studies) + " |",
        "| --- " * (1 + len(studies)) + "|",
    ]
    for documents in (25_000, 100_000, 1_000_000):
        cells = [f"{gpu_hours(documents, heads * seeds):.1f}" for heads, seeds in studies]
        rows.append(f"| {documents:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(f"{mean_of_power(1):.0f} tokens and {forward_flops() / 1e9:.0f} GFLOP per document and forward pass")
    print(f"{NUM_PARAMETERS * BYTES_PER_GRADIENT / 1e6:.0f} MB of gradients per step\n")
    print(f"{speed_table()}\n\n{cost_table()}")
