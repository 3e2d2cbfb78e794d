"""The peak rate of matrix products of a GPU: from its data sheet, and measured."""

from typing import Any

import torch
from machine import matrix_peak_gflops, product_gflops

# Dense bfloat16 products with float32 accumulation, in TFLOP/s, from the manufacturer's data sheets. The first entry
# whose name is part of the card's name applies.
TFLOPS = {
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "B200": 2250,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "A30": 165,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
}


def data_sheet_tflops(name: str) -> float | None:
    """Return the peak rate of a card from its data sheet, or None if `TFLOPS` lacks the card."""
    return next((float(peak) for part, peak in TFLOPS.items() if part.lower() in name.lower()), None)


def describe(device: torch.device) -> dict[str, Any]:
    """Return the card's name, its peak TFLOP/s (according to the data sheet, and measured) and its memory in GiB."""
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else "CPU"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if on_cuda else None
    # In the dry run on the CPU, one small product is enough.
    gflops = matrix_peak_gflops(device, torch.bfloat16) if on_cuda else product_gflops(device, torch.float32, 256)
    return {
        "card": name,
        "data_sheet_tflops": data_sheet_tflops(name),
        "measured_tflops": gflops / 1e3,
        "memory_gib": memory,
    }
