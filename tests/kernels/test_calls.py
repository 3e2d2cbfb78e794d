"""Tests for calls of the compiled kernels: declared types, argument checks and failed allocations."""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.encoders import make, make_batch, run
from support.hardware import needs_avx2, needs_bf16
from support.kernels import HALF, cu_seqlens_of
from support.trainers import make as make_trainer
from torch import Tensor

from imdbcls.kernels import building, loading
from imdbcls.kernels.declarations import constants
from imdbcls.kernels.encoder import accelerate

CSRC = Path(building.__file__).parent / "csrc"
DTYPES = [
    pytest.param(HALF, id="bf16", marks=needs_bf16),
    pytest.param(torch.float32, id="fp32", marks=needs_avx2),
]
# Each allocation decrements `failing`, and the allocation that reaches 0 fails. If `failing` starts at 0, none fails.
SHIM = """
#include <stdlib.h>
__attribute__((weak)) int failing = 0;
static inline void *limited(size_t alignment, size_t size) {
    return failing > 0 && --failing == 0 ? NULL : aligned_alloc(alignment, size);
}
#define aligned_alloc limited
"""


@pytest.fixture(scope="module", params=DTYPES)
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[loading.Kernels]:
    """Yield kernels whose allocator fails on request (`fail_at`)."""
    folder = tmp_path_factory.mktemp("limited")
    (folder / "shim.h").write_text(SHIM)
    library = building.LIBRARIES[request.param]
    flags = ("-std=gnu11", "-O1", "-march=native", "-fopenmp", "-fPIC", "-include", str(folder / "shim.h"))
    with pytest.MonkeyPatch.context() as patch:
        flags = (*flags, *(flag for flag in library.flags if flag.startswith("-D")))
        patch.setitem(building.LIBRARIES, request.param, library._replace(flags=flags))
        yield loading.Kernels(building.build(request.param, folder), request.param)


def fail_at(limited: loading.Kernels, number: int) -> None:
    ctypes.c_int.in_dll(limited._library, "failing").value = number


def left_to_fail(limited: loading.Kernels) -> int:
    return ctypes.c_int.in_dll(limited._library, "failing").value


# ---- Declarations


@pytest.mark.parametrize("dtype", [HALF, torch.float32], ids=("bf16", "fp32"))
def test_ctypes_declarations_match_c_definitions(dtype: torch.dtype) -> None:
    """Parse the sources independently. Compare the names of the functions and the types of arguments and results."""
    element = "bf16" if dtype == HALF else "float"
    defined: dict[str, tuple[str, list[str]]] = {}
    for source in building.LIBRARIES[dtype].sources:
        text = re.sub(r"/\*.*?\*/", "", (CSRC / source).read_text(), flags=re.DOTALL)
        for kind, name, arguments in re.findall(r"^([a-z]\w*) (\w+)\(([^()]*)\) \{", text, flags=re.MULTILINE):
            of = [" ".join(each.split()).replace("element ", f"{element} ") for each in arguments.split(",")]
            defined[name] = (kind, [re.sub(r"\w+$", "", each).strip() for each in of])
    assert defined.pop("start") == ("int", ["int"]) and defined.pop("blocks_of") == ("int64_t", ["int64_t"])
    declared = loading.read_declarations(building.source_text("kernels.h"), dtype)
    assert defined.keys() == declared.keys() and len(declared) == (13 if dtype == HALF else 16)
    numbers = {
        "int64_t": ctypes.c_int64,
        "uint64_t": ctypes.c_uint64,
        "uint32_t": ctypes.c_uint32,
        "int": ctypes.c_int,
        "float": ctypes.c_float,
    }
    pointers = {"bf16 *": HALF, "float *": torch.float32, "int64_t *": torch.int64, "uint16_t *": torch.int16}
    for name, (kind, types) in defined.items():
        *types, threads = types
        assert (kind, threads) == ("int", "int"), name
        found = [(each.c_type, each.dtype) for each in declared[name].parameters]
        expected = [
            (ctypes.c_void_p, pointers[each.removeprefix("const ")]) if "*" in each else (numbers[each], None)
            for each in types
        ]
        assert found == expected, name
        assert all(bool(each.shape) == (each.dtype is not None) for each in declared[name].parameters), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_loaded_functions_have_declared_types(dtype: torch.dtype) -> None:
    loaded, _ = loading.find_or_build(dtype)
    for name, (function, declared) in loaded._functions.items():
        assert function.argtypes == [*(each.c_type for each in declared.parameters), ctypes.c_int], name
        assert function.restype is ctypes.c_int and function.__name__ == name


def test_shared_constants_are_defined_once() -> None:
    """Only `kernels.h` defines them; a second definition could have another value."""
    assert constants().keys() == {"BLOCK_ROWS", "MAX_COLUMNS", "MASK_BITS", "PANEL_WIDTH", "WIDTH_MULTIPLE"}
    for source in {*building.LIBRARIES[HALF].sources, *building.LIBRARIES[torch.float32].sources}:
        text = (CSRC / source).read_text()
        assert not re.findall(rf"\b({'|'.join(constants())}) = ", text), source
    for name in constants():
        used = [path.name for path in Path(building.__file__).parent.glob("*.py") if f'"{name}"' in path.read_text()]
        assert used, f"Python does not use {name}"


def test_definition_that_differs_from_declaration_does_not_compile(tmp_path: Path) -> None:
    library = building.LIBRARIES[torch.float32]
    for name in (*library.sources, *library.headers):
        (tmp_path / name).write_text((CSRC / name).read_text())
    text = (tmp_path / "float_products.c").read_text()
    changed = re.sub(r"(int pack_weight\([^)]*)int64_t O", r"\1int O", text)
    assert changed != text
    (tmp_path / "float_products.c").write_text(changed)
    command = [*building.compiler(), "-std=gnu11", "-mavx2", "-mfma", "-DFLOATS", "-fopenmp", "-fsyntax-only"]
    with pytest.raises(building.KernelsMissingError, match="conflicting types"):
        building._run([*command, "float_products.c"], tmp_path, float("inf"))
    building._run([*command, "float_lstm.c"], tmp_path, float("inf"))


@pytest.mark.parametrize("march", ["haswell", "cooperlake", "sapphirerapids"])
def test_sources_compile_without_warnings_and_variable_length_arrays(march: str) -> None:
    """Compile for AVX2, and for AVX512-BF16 with and without AMX, on any processor."""
    dtype = torch.float32 if march == "haswell" else HALF
    library = building.LIBRARIES[dtype]
    flags = [flag for flag in library.flags if flag not in ("-O3", "-march=native")]
    strict = [f"-march={march}", "-Wall", "-Wextra", "-Wvla", "-Werror", "-fsyntax-only"]
    building._run([*building.compiler(), *flags, *strict, *library.sources], CSRC, float("inf"))


# ---- Invalid arguments


def attention_arguments(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "qkv_N3H": torch.zeros(12, 3 * 64, dtype=dtype),
        "offsets_B1": cu_seqlens_of((5, 7)),
        "context_NH": torch.zeros(12, 64, dtype=dtype),
        "shift_AN": torch.zeros(2, 12),
        "scale_AN": torch.zeros(2, 12),
        "num_documents": 2,
        "num_heads": 2,
        "D": 32,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "given", "kind", "reason"),
    [
        (
            "qkv_N3H",
            torch.zeros(12, 192, dtype=torch.float64),
            TypeError,
            "qkv_N3H has dtype torch.float64, not torch.",
        ),
        ("context_NH", torch.zeros(12, 64, device="meta"), TypeError, "context_NH (has dtype|is on)"),
        ("offsets_B1", torch.tensor([0, 5, 12], dtype=torch.int32), TypeError, "offsets_B1 has dtype torch.int32"),
        ("offsets_B1", torch.tensor([0, 9, 5]), ValueError, "offsets do not start at 0, or decrease"),
        ("offsets_B1", torch.tensor([1, 5, 12]), ValueError, "offsets do not start at 0, or decrease"),
        ("offsets_B1", torch.tensor([0, 5, 13]), ValueError, "qkv_N3H has 2304 elements, but needs at least 2496"),
        ("offsets_B1", torch.tensor([0, 12]), ValueError, "offsets_B1 has 2 elements, but needs at least 3"),
        ("shift_AN", torch.zeros(12, 2).t(), ValueError, r"shift_AN is not contiguous: its strides are \(1, 2\)"),
        ("scale_AN", torch.zeros(2, 11), ValueError, "scale_AN has 22 elements, but needs at least 24"),
        ("scale_AN", None, ValueError, "a missing tensor"),
        ("qkv_N3H", None, TypeError, "qkv_N3H is a NoneType, not a tensor"),
        ("qkv_N3H", 0, TypeError, "qkv_N3H is a int, not a tensor"),
        ("D", torch.tensor(32), ValueError, "is negative or not an integer"),
        ("D", 33, ValueError, "qkv_N3H has 2304 elements, but needs at least 2376"),
        ("num_documents", -1, ValueError, "is negative or not an integer"),
    ],
)
def test_arguments_that_would_corrupt_memory_are_rejected(
    dtype: torch.dtype, name: str, given: Any, kind: type[Exception], reason: str
) -> None:
    loaded, _ = loading.find_or_build(dtype)
    arguments = attention_arguments(dtype)
    loaded.call("attention", *arguments.values())
    with pytest.raises(kind, match=f"attention.*{reason}"):
        loaded.call("attention", *(arguments | {name: given}).values())
    with pytest.raises(TypeError, match="takes 8 arguments, not 7"):
        loaded.call("attention", *list(arguments.values())[:-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_unsupported_sizes_are_rejected(dtype: torch.dtype) -> None:
    loaded, _ = loading.find_or_build(dtype)
    wide, row = torch.zeros(1, 8200, dtype=dtype), torch.zeros(8200)
    with pytest.raises(ValueError, match="add_and_normalise failed: unsupported sizes"):
        loaded.call(
            "add_and_normalise", wide, wide, row, row, None, wide, None, None, None, 1, 8200, 1e-5, 0, 0, 0, 1.0
        )
    odd = torch.zeros(40, 40, dtype=dtype)
    for width in (24, 40):
        gates, weight, final = (torch.zeros(4 * width, width, dtype=dtype) for _ in range(3))
        with pytest.raises(ValueError, match="lstm failed: unsupported sizes"):
            loaded.call("lstm", gates, weight, cu_seqlens_of((1,)), final, None, None, None, 1, width, False)
        with pytest.raises(ValueError, match="gru failed: unsupported sizes"):
            row = torch.zeros(width)
            loaded.call("gru", gates, weight, row, cu_seqlens_of((1,)), final, None, None, None, 1, width, False)
    if dtype == HALF:
        with pytest.raises(ValueError, match="weight_gradient failed: unsupported sizes"):
            loaded.call("weight_gradient", odd, odd, torch.zeros(40, 40), 40, 40, 40)


# ---- Memory


def calls(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Return valid arguments for each kernel that allocates memory."""

    def zeros(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=of)

    rows, offsets, single = 12, cu_seqlens_of((5, 7)), torch.float32
    found: dict[str, tuple[Any, ...]] = {
        "attention": tuple(attention_arguments(dtype).values()),
        "attention_backward": (
            *(zeros(rows, 192), zeros(rows, 64), zeros(rows, 64), zeros(2, rows, of=single), zeros(2, rows, of=single)),
            *(offsets, zeros(rows, 192), zeros(2, 192, of=single), 2, 2, 32),
        ),
        "weight_gradient": (zeros(rows, 64), zeros(rows, 32), zeros(64, 32, of=single), rows, 64, 32),
        "lstm": (zeros(rows, 128), zeros(128, 32), offsets, zeros(2, 32), zeros(rows, 32), None, None, 2, 32, False),
        "lstm_backward": (
            *(zeros(rows, 128), zeros(128, 32), offsets, zeros(rows, 32, of=single), zeros(2, 32), zeros(rows, 32)),
            *(zeros(rows, 128), zeros(2, 128, of=single), 2, 32, False),
        ),
        "gru": (
            *(zeros(rows, 96), zeros(96, 32), zeros(32, of=single), offsets, zeros(2, 32), zeros(rows, 32)),
            *(None, None, 2, 32, False),
        ),
        "gru_backward": (
            *(zeros(rows, 96), zeros(96, 32), offsets, zeros(rows, 32), zeros(rows, 32), zeros(2, 32)),
            *(zeros(rows, 32), zeros(rows, 96), zeros(rows, 96), zeros(2, 128, of=single), 2, 32, False),
        ),
    }
    if dtype == torch.float32:
        found["linear_backward"] = (zeros(rows, 64), zeros(4, 32, 16), zeros(rows, 32), rows, 32, 64)
    return found


def test_failed_allocation_raises_and_call_can_be_repeated(limited: loading.Kernels) -> None:
    for name, arguments in calls(limited.dtype).items():
        num_allocations = 0
        while True:
            fail_at(limited, num_allocations + 1)
            try:
                limited.call(name, *arguments)
            except MemoryError as error:
                assert f"the CPU kernel {name} failed: not enough memory" in str(error)
                assert left_to_fail(limited) == 0
                num_allocations += 1
            else:
                break
        fail_at(limited, 0)
        assert num_allocations == (2 if name.startswith(("lstm", "gru")) else 1), name


def test_all_allocations_are_covered_by_tests() -> None:
    """No kernel allocates inside a parallel region, where a failure could not be reported."""
    for dtype in (HALF, torch.float32):
        for source in building.LIBRARIES[dtype].sources:
            for body in re.split(r"\n}\n", (CSRC / source).read_text()):
                positions = [match.start() for match in re.finditer(r"\b(?:allocate|workspace_of)\(", body)]
                name = re.search(r"^int (\w+)\(", body, flags=re.MULTILINE)
                assert not positions or (name is not None and name[1] in calls(dtype))
                assert all(position < body.index("#pragma omp") for position in positions)
            assert not re.search(r"\b(?:malloc|calloc|realloc|aligned_alloc|alloca)\(", (CSRC / source).read_text())


def test_step_without_memory_continues_with_fewer_documents(
    limited: loading.Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If an allocation fails in forward or backward, the step still computes the gradient of the whole batch."""
    monkeypatch.setattr(loading, "load", lambda dtype: limited if dtype == limited.dtype else None)
    precision = f"precision={'bf16' if limited.dtype == HALF else 'fp32'}"
    plain = ("backbone.dropout=0", "head=mean", "data.train_limit=8", "batch_size=8")
    losses, failures = [], 0
    for number in (0, 1, 2, 3, 6, 9):  # a step allocates memory at least nine times
        trainer = make_trainer(tmp_path / str(number), *plain, precision)
        (batch,) = trainer.batches.train.epoch(0)
        trainer.model.train()
        fail_at(limited, number)
        losses.append(float(trainer.step(batch)[0]))
        failures += number > 0
        assert left_to_fail(limited) == 0
        assert trainer.state.micro_batch_size == (8 if number == 0 else 4)
    warning = "not enough memory for a micro-batch of 8 documents; continuing with 4"
    assert capsys.readouterr().err.count(warning) == failures == 5
    assert losses == pytest.approx([losses[0]] * 6, rel=0.02 if limited.dtype == HALF else 1e-5)


def test_single_document_without_memory_raises_memory_error(
    limited: loading.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda dtype: limited if dtype == limited.dtype else None)
    model = make("bert")
    accelerate(model)
    batch = make_batch(model, (9,))
    for number in (1, 4):  # allocation 1 is in the forward pass, allocation 4 in the backward pass
        fail_at(limited, number)
        with pytest.raises(MemoryError, match=r"the CPU kernel .* failed: not enough memory"):
            run(model, *batch, bf16=limited.dtype == HALF)
    fail_at(limited, 0)
    run(model, *batch, bf16=limited.dtype == HALF)
