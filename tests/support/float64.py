"""MPS has no float64: a tensor must be copied to the CPU before it becomes float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

IS_ON_CPU = "is_on_cpu"  # a key in the `__dict__` of a tensor


class Float64OnCpuOnly(TorchFunctionMode):
    """Fail if a call returns a float64 tensor that would be on the device, although the device of the test is the CPU.

    Every tensor counts as on the device, except copies to the CPU (`tensor.cpu()`, or a call with the argument "cpu"),
    tensors that are computed only from such copies, and float64 tensors. An argument of type `torch.device` counts as
    the device. A new float64 tensor without this argument, such as `torch.zeros(2, dtype=torch.float64)`, is allowed.

    Only the results of the calls of PyTorch are checked, not what PyTorch calls inside a function.
    `num_conversions` counts the tensors that became float64, so that a test can assert that it has seen some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_conversions = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        leaves = tree_leaves((arguments, options))
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        has_float64 = any(each.dtype == torch.float64 for each in tensors)
        to_cpu = function is Tensor.cpu or any(isinstance(each, str) and each == "cpu" for each in leaves)
        to_device = any(isinstance(each, torch.device) for each in leaves)
        is_computed_on_cpu = bool(tensors) and all(vars(each).get(IS_ON_CPU, False) for each in tensors)

        result = function(*arguments, **(options or {}))
        if any(result is each for each in tensors) and (to_cpu or to_device):
            result = result.clone()  # as a copy between two devices
        for each in tree_leaves(result):
            if not isinstance(each, Tensor):
                continue
            if each.dtype == torch.float64:
                is_allowed = to_cpu or (not to_device and (is_computed_on_cpu or has_float64 or not tensors))
                assert is_allowed, f"{function.__name__} returns float64 on the device"
                self.num_conversions += bool(tensors) and not has_float64
            if to_cpu or (not to_device and is_computed_on_cpu):
                vars(each)[IS_ON_CPU] = True
        return result
