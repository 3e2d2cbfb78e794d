"""The table of the slowest operators, from events as `torch.profiler` records them on a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from imdbcls.training.profiler import WARMUP_STEPS, StepProfiler


def event(name: str, start: int, end: int, **options: Any) -> Any:
    """Return an event. `start` and `end` are in microseconds."""
    shared = {"thread": 1, "use_device": "cuda", "is_legacy": False, "stack": []}
    return FunctionEvent(start, name, start_us=start, end_us=end, **shared, **options)


def test_each_kernel_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each operator launches one kernel. The step has an annotation on the CPU and one on the GPU."""
    product, addition = event("aten::mm", 10, 60), event("aten::add", 100, 130)
    product.append_kernel("gemm", 0, 900)
    addition.append_kernel("add_kernel", 0, 100)
    on_gpu = {"device_type": DeviceType.CUDA, "device_index": 0}
    events = EventList(
        [
            event("ProfilerStep*", 0, 2000),
            product,
            addition,
            event("gemm", 200, 1100, **on_gpu),
            event("add_kernel", 1100, 1200, **on_gpu),
            event("ProfilerStep*", 201, 1900, is_user_annotation=True, **on_gpu),
        ],
        use_device="cuda",
    )
    events._build_tree()
    profiler = StepProfiler(1, tmp_path / "trace.json.gz", torch.device("cuda"))
    profiler.steps_done = WARMUP_STEPS + 1
    recorded: Any = SimpleNamespace(export_chrome_trace=lambda path: None, key_averages=events.key_averages)
    profiler.report(recorded)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    shares = {name: share for name, _, share, calls in (line[-4:] for line in lines if line[-1] == "1")}
    assert shares == {"aten::mm": "90.0%", "aten::add": "10.0%", "operators": "0.0%"}
