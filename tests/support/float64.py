"""MPS has no float64: a tensor must be copied to the CPU before it becomes float64."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64OnCpuOnly(TorchFunctionMode):
    """Fail if `Tensor.double` is called on a tensor that `Tensor.cpu` did not return.

    `num_conversions` counts the calls, so that a test can assert that it has seen some.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: list[Tensor] = []
        self.num_conversions = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        if function is Tensor.cpu:
            self.on_cpu.append(result)
        if function is Tensor.double:
            assert any(arguments[0] is each for each in self.on_cpu), "float64 on the device"
            self.num_conversions += 1
        return result
