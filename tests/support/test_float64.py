"""Tests of `Float64OnCpuOnly`, which finds float64 on the device in tests that run on the CPU."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from support.float64 import Float64OnCpuOnly

DEVICE = torch.device("cpu")  # the device of a test run
FLOAT64 = torch.float64

ON_DEVICE: dict[str, Callable[[Tensor], object]] = {
    "double": lambda tensor: tensor.double(),
    "to": lambda tensor: tensor.to(FLOAT64),
    "type": lambda tensor: tensor.type(FLOAT64),
    "before the copy": lambda tensor: tensor.double().cpu(),
    "dtype of a sum": lambda tensor: tensor.sum(dtype=FLOAT64),
    "functional": lambda tensor: torch.nn.functional.softmax(tensor, dim=0, dtype=FLOAT64),
    "new tensor": lambda tensor: tensor.new_zeros(2, dtype=FLOAT64),
    "new tensor on the device": lambda tensor: torch.zeros(2, dtype=FLOAT64, device=DEVICE),
    "source of a copy": lambda tensor: (tensor.cpu(), tensor.double()),
    "one of two is a copy": lambda tensor: torch.stack([tensor.cpu(), tensor]).double(),
    "copied back": lambda tensor: tensor.cpu().to(DEVICE).double(),
    "float64 copied back": lambda tensor: tensor.cpu().double().to(DEVICE),
    "from NumPy": lambda tensor: torch.from_numpy(np.zeros(2, dtype=np.float32)).to(DEVICE).double(),
}
ON_CPU: dict[str, Callable[[Tensor], object]] = {
    "cpu": lambda tensor: tensor.cpu().double(),
    "to cpu": lambda tensor: tensor.to("cpu").double(),
    "to device cpu": lambda tensor: tensor.to(device="cpu").double(),
    "to cpu in float64": lambda tensor: tensor.to("cpu", FLOAT64),
    "computed from copies": lambda tensor: torch.stack([tensor.cpu()[:1], tensor.cpu()[1:]]).sum(dtype=FLOAT64),
    "sum with an index": lambda tensor: torch.zeros(2, dtype=FLOAT64).index_add(
        0, torch.arange(2), tensor.cpu().double()
    ),
}


@pytest.mark.parametrize("form", ON_DEVICE)
def test_float64_on_the_device_fails(form: str) -> None:
    tensor = torch.ones(2)
    with Float64OnCpuOnly(), pytest.raises(AssertionError, match="float64 on the device"):
        ON_DEVICE[form](tensor)


@pytest.mark.parametrize("form", ON_CPU)
def test_float64_of_a_copy_is_allowed_and_counted(form: str) -> None:
    tensor = torch.ones(2)
    with Float64OnCpuOnly() as watched:
        ON_CPU[form](tensor)
    assert watched.num_conversions == 1


def test_copies_are_freed() -> None:
    with Float64OnCpuOnly():
        copy = weakref.ref(torch.ones(2).cpu())
        gc.collect()
        assert copy() is None
