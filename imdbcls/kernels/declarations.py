"""Parse the declarations of the compiled kernels (`csrc/kernels.h`), and check the arguments of each call.

The C compiler checks the definitions against this header, and the ctypes types are derived from it, so C and Python
cannot disagree. The name of each pointer ends in the shape of its data. `Function.checked` uses this shape to reject
tensors that are too small, because a kernel would read or write past their end.
"""

import ctypes
import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imdbcls.kernels.building import source_text

_NUMBERS: dict[str, Any] = {
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint32_t": ctypes.c_uint32,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
}
# The dtype for each pointer type. The type `element` stands for the dtype for which the kernels are compiled.
_DTYPES = {"float": torch.float32, "int64_t": torch.int64, "uint16_t": torch.int16}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_ONLY_FLOATS = re.compile(r"^#ifdef FLOATS$(.*?)^#endif$", re.DOTALL | re.MULTILINE)
_FUNCTION = re.compile(r"^int (\w+)\(([^)]*)\);", re.MULTILINE)
_CONSTANT = re.compile(r"^    (\w+) = (\d+)\b", re.MULTILINE)
_PARAMETER = re.compile(r"(?:const )?(?P<type>\w+) (?P<pointer>\*)?(?P<or_null>OR_NULL )?(?P<name>\w+)")

# The exception for each status in `vectors.h`, except 0 (success).
_FAILURES: dict[int, tuple[type[Exception], str]] = {
    1: (MemoryError, "not enough memory for its buffers"),
    2: (ValueError, "unsupported sizes, or a missing tensor"),
    3: (ValueError, "the document offsets do not start at 0, or decrease"),
}


class Parameter(NamedTuple):
    """A parameter: a number, or a tensor of `dtype` with at least as many elements as `shape` requires."""

    name: str
    c_type: Any
    dtype: torch.dtype | None = None
    shape: tuple[str, ...] = ()  # letters and numbers: ("N", "3", "H")
    may_be_none: bool = False


class Function:
    """A declared C function. `parameters` excludes the last parameter, which is the number of threads."""

    def __init__(self, name: str, parameters: Sequence[Parameter]) -> None:
        self.name = name
        self.parameters = tuple(parameters)
        self.sizes = tuple(
            index for index, each in enumerate(parameters) if each.dtype is None and each.c_type is ctypes.c_int64
        )
        self.offsets = next((index for index, each in enumerate(parameters) if each.name == "offsets_B1"), None)
        self.num_elements = lru_cache(maxsize=256)(self._num_elements)

    def checked(self, arguments: Sequence[Tensor | int | float | None]) -> list[Any]:
        """Check the arguments and return them as addresses and numbers for ctypes. Raise TypeError or ValueError."""
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, not {len(arguments)}")
        sizes = tuple(arguments[index] for index in self.sizes)
        num_rows = None if self.offsets is None else _last_of(arguments[self.offsets])
        passed: list[Any] = []
        for parameter, argument, least in zip(
            self.parameters, arguments, self.num_elements(sizes, num_rows), strict=True
        ):
            if parameter.dtype is None:
                if not isinstance(argument, int | float):
                    raise TypeError(f"{self.name}: {parameter.name} is a {type(argument).__name__}, not a number")
                passed.append(argument)
            elif isinstance(argument, Tensor):
                if (
                    argument.dtype is not parameter.dtype
                    or not argument.is_cpu
                    or not argument.is_contiguous()
                    or argument.numel() < least
                ):
                    raise self._refusal(parameter, argument, least)
                passed.append(argument.data_ptr())
            elif argument is None and parameter.may_be_none:
                passed.append(None)
            else:
                raise TypeError(f"{self.name}: {parameter.name} is a {type(argument).__name__}, not a tensor")
        return passed

    def failure(self, status: int) -> Exception:
        """Return the exception for a status other than 0."""
        kind, reason = _FAILURES[status]
        return kind(f"the CPU kernel {self.name} failed: {reason}")

    def _num_elements(self, sizes: tuple[Any, ...], num_rows: int | None) -> tuple[int, ...]:
        """Return the minimum number of elements of each parameter (0 for a number). `num_rows` is the last offset."""
        if any(not isinstance(size, int) or size < 0 for size in sizes):
            raise ValueError(f"{self.name}: a size in {sizes} is negative or not an integer")
        known = {self.parameters[index].name: size for index, size in zip(self.sizes, sizes, strict=True)}
        if num_rows is not None:
            known["N"] = num_rows
        if "num_documents" in known:
            known |= {"B": known["num_documents"], "A": known["num_heads"], "H": known["num_heads"] * known["D"]}
        known.setdefault("B", -(-known.get("N", 0) // constant("BLOCK_ROWS")))
        if "H" in known:
            known |= {"G": 4 * known["H"], "W": -(-known["H"] // constant("MASK_BITS"))}
        if "O" in known:
            width = constant("PANEL_WIDTH")
            known |= {"P": -(-known["O"] // width), "C": width}
        return tuple(
            known["B"] + 1
            if each.shape == ("B", "1")
            else math.prod(int(part) if part.isdigit() else known[part] for part in each.shape)
            if each.dtype is not None
            else 0
            for each in self.parameters
        )

    def _refusal(self, parameter: Parameter, found: Tensor, least: int) -> Exception:
        if found.dtype is not parameter.dtype:
            return TypeError(f"{self.name}: {parameter.name} has dtype {found.dtype}, not {parameter.dtype}")
        if not found.is_cpu:
            return TypeError(f"{self.name}: {parameter.name} is on {found.device}, not on the CPU")
        if not found.is_contiguous():
            return ValueError(f"{self.name}: {parameter.name} is not contiguous: its strides are {found.stride()}")
        return ValueError(f"{self.name}: {parameter.name} has {found.numel()} elements, but needs at least {least}")


@cache
def constants() -> dict[str, int]:
    """Return the constants that C and Python share, from `kernels.h`."""
    return {name: int(value) for name, value in _CONSTANT.findall(source_text("kernels.h"))}


def constant(name: str) -> int:
    return constants()[name]


def read_declarations(header: str, dtype: torch.dtype) -> dict[str, Function]:
    """Return the kernels that are compiled for this dtype, keyed by name; `header` is the text of `kernels.h`."""
    text = _COMMENT.sub("", header)
    text = text if dtype == torch.float32 else _ONLY_FLOATS.sub("", text)
    return {name: Function(name, _parameters(arguments, dtype)) for name, arguments in _FUNCTION.findall(text)}


def _parameters(arguments: str, dtype: torch.dtype) -> list[Parameter]:
    *declared, threads = (" ".join(argument.split()) for argument in arguments.split(","))
    if threads != "int num_threads":
        raise ValueError(f"the last parameter of a kernel is {threads!r}, not 'int num_threads'")
    return [_parameter(argument, dtype) for argument in declared]


def _parameter(declared: str, dtype: torch.dtype) -> Parameter:
    match = _PARAMETER.fullmatch(declared)
    if match is None:
        raise ValueError(f"the declaration {declared!r} cannot be parsed")
    name = match["name"]
    if match["pointer"] is None:
        return Parameter(name, _NUMBERS[match["type"]])
    shape = tuple(name.rpartition("_")[2])
    of = dtype if match["type"] == "element" else _DTYPES[match["type"]]
    return Parameter(name, ctypes.c_void_p, of, shape, match["or_null"] is not None)


def _last_of(offsets: object) -> int:
    if not isinstance(offsets, Tensor) or offsets.dim() != 1 or len(offsets) == 0:
        raise TypeError("the document offsets are not a one-dimensional tensor, or are empty")
    return int(offsets[-1])
