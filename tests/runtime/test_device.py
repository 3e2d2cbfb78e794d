"""PyTorch's flags for CUDA belong to the process, so each pass sets the flags of its own run."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch

from imdbcls.runtime.device import choose_hardware

Flags = Callable[[], tuple[bool, ...]]
backends = torch.backends


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flags]:
    """Pretend that CUDA is available; return a function that reads the flags. Restore the flags afterwards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "autocast", lambda *settings, **more: nullcontext())

    def read() -> tuple[bool, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            backends.cudnn.allow_tf32,
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.benchmark,
            backends.cuda.cudnn_sdp_enabled(),
        )

    before = read()
    yield read
    torch.use_deterministic_algorithms(before[0])
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark = before[1:4]
    backends.cuda.enable_cudnn_sdp(before[4])


def test_each_pass_has_the_flags_of_its_run(flags: Flags) -> None:
    """The flags are deterministic, TF32 in cuDNN, TF32 in products, benchmark, and cuDNN's attention."""
    expected = {
        ("bf16", False): (False, True, False, False, True),
        ("fp32", False): (False, False, False, False, True),
        ("bf16", True): (True, True, False, False, False),
        ("fp32", True): (True, False, False, False, False),
    }
    runs = {}
    for (precision, deterministic), values in expected.items():
        runs[precision, deterministic] = choose_hardware("cuda", precision, deterministic)
        assert flags() == values
    for choice in [*reversed(expected), *expected]:
        with runs[choice].forward_pass():
            assert flags() == expected[choice]
        assert flags() == expected[choice]


def test_cpu_runs_leave_the_flags_unchanged(flags: Flags) -> None:
    before = flags()
    with choose_hardware("cpu", "fp32", deterministic=True).forward_pass():
        assert flags() == before
