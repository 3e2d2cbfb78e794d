"""Profile training steps with `torch.profiler`: a table of the slowest operators, and a trace of all operators."""

import logging
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from imdbcls.printable import counted
from imdbcls.runtime.text_table import text_table

logger = logging.getLogger(__name__)

WARMUP_STEPS = 2  # steps that are not in the trace: the first step allocates memory, and starting the profiler is slow
NUM_OPERATORS = 15  # rows of the table
MAX_NAME = 48  # characters of an operator's name
NAMES = {"ProfilerStep*": "Python, outside operators"}  # torch's name → a clearer name for the table


class StepProfiler:
    """Profile `num_steps` steps after `WARMUP_STEPS`. The trace file has Chrome's format.

    Call `step` after each training step, and `close` when training ends. If training ends before `num_steps` steps are
    profiled, the trace contains fewer steps. Profiling slows the profiled steps down and does not change the results.
    """

    def __init__(self, num_steps: int, trace: Path, device: torch.device) -> None:
        self.num_steps = num_steps
        self.trace = trace
        self.is_cuda = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.is_cuda else [])]
        plan = schedule(wait=1, warmup=WARMUP_STEPS - 1, active=num_steps, repeat=1)
        self.profile = profile(activities=activities, schedule=plan, on_trace_ready=self.report)
        self.steps_done = 0

    def step(self) -> None:
        if self.steps_done == 0:
            self.profile.start()
        self.steps_done += 1
        self.profile.step()

    def close(self) -> None:
        if self.steps_done:
            self.profile.stop()
        if self.steps_done <= WARMUP_STEPS:
            logger.warning(
                f"Nothing was profiled: training had {counted(self.steps_done, 'step')}, and the first {WARMUP_STEPS} "
                "are warm-up."
            )

    def report(self, found: profile) -> None:
        """Write the trace, and log the operators that take the most time, not counting the operators that they call."""
        found.export_chrome_trace(str(self.trace))
        # The events of the GPU repeat the times of the operators that launched them.
        operators = [each for each in found.key_averages() if each.device_type == DeviceType.CPU]
        averages = {NAMES.get(each.key, each.key): each for each in operators}
        times = {name: self.microseconds(each) for name, each in averages.items()}
        total = sum(times.values()) or 1.0
        slowest = sorted(times, key=times.__getitem__, reverse=True)[:NUM_OPERATORS]
        rows = [
            (name[:MAX_NAME], f"{times[name] / 1e3:,.1f}", f"{times[name] / total:.1%}", f"{averages[name].count:,}")
            for name in slowest
        ]
        header = ("operator", "ms", "share", "calls")
        device = "GPU" if self.is_cuda else "CPU"
        num_steps = min(self.steps_done - WARMUP_STEPS, self.num_steps)
        logger.info(
            f"Slowest operators in {num_steps} training steps, by {device} time, not counting operators that they call:"
        )
        for line in text_table(rows, header).splitlines():
            logger.info(line)
        logger.info(f"All operators are in {self.trace}. Open it at https://ui.perfetto.dev or in chrome://tracing.")

    def microseconds(self, average: object) -> float:
        return float(getattr(average, "self_device_time_total" if self.is_cuda else "self_cpu_time_total"))
