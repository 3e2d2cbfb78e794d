"""A head that fails on purpose. FAULT sets the kind of failure, and FAULT_AT the training batch (counted from 1)."""

import copy
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imdbcls.heads.cls import ClsHead


class FaultyHead(ClsHead):
    """The `cls` head with a fault. `only_dropout` restricts the fault to the sweep job with that dropout."""

    def __init__(self, *, only_dropout: float | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        fault = os.environ.get("FAULT", "")
        self.fault = fault if only_dropout in (None, settings["dropout"]) else ""
        self.fault_at = int(os.environ.get("FAULT_AT", "1"))
        self.batches = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "FaultyHead":
        """Return a copy without the fault: `models.head_probe` runs copies of the head before training."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        copied.fault = ""
        return copied

    def wait(self) -> None:
        """Write that the fault has begun, and wait for a signal."""
        print(os.environ["WAITING"], flush=True)
        time.sleep(3600)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        if not self.training:
            if self.fault == "slow scoring" or (self.fault == "slow latency" and len(hidden_BTD) == 1):
                self.wait()
            if self.fault == "no room":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            return super().forward(hidden_BTD, mask_BT)
        self.batches += 1
        if self.fault.startswith("memory") and len(hidden_BTD) > 3:
            if self.fault == "memory on cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
        logits_BC = super().forward(hidden_BTD, mask_BT)
        if self.batches == self.fault_at:
            if self.fault == "slow step":
                self.wait()
            while self.fault == "gate" and not Path(os.environ["GATE"]).exists():  # wait until a test creates the file
                time.sleep(0.05)
            if self.fault == "raise":
                raise ZeroDivisionError("the second job's own mistake")
            if self.fault == "exit":
                sys.exit(7)
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "nan":
                return logits_BC * torch.nan
        return logits_BC
