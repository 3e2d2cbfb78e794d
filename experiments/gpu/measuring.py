"""The process that measures: it receives one `Cell` at a time, and returns the results for it."""

import gc
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from plan import Cell

THROUGHPUT = Path(__file__).resolve().parent.parent / "throughput"


class Measurer:
    """Builds one system at a time, and frees its memory before it builds the next system."""

    def __init__(self, choices: list[str], rounds: int, cell_seconds: float) -> None:
        if str(THROUGHPUT) not in sys.path:
            sys.path.insert(0, str(THROUGHPUT))
        self.choices, self.rounds, self.cell_seconds = choices, rounds, cell_seconds

    def machine(self) -> dict[str, Any]:
        import card
        import systems
        import systems_gpu

        machine = systems.Machine({"choices": self.choices})
        about = {**card.describe(machine.hardware.device), **machine.describe()}
        return {**about, "flash_attention": systems_gpu.has_flash_attention()}

    def measure(self, cell: Cell) -> dict[str, Any]:
        import torch
        from systems import synchronise

        torch._dynamo.reset()  # otherwise PyTorch counts the compilations of all cells together
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        system = self.build(cell)
        measured = {"first_loss": system.first_loss(), "num_documents": system.num_documents()}
        seconds = system.seconds(self.rounds, lambda: time.monotonic() - started < self.cell_seconds)
        synchronise(system.hardware)
        measured |= {
            "seconds": seconds,
            "num_tokens": system.num_tokens(),
            "flops": system.flops(),
            "peak_memory_mb": system.peak_memory_mb(),
            "precision": system.hardware.precision,
        }
        if hasattr(system, "kernels"):
            try:
                measured["profile"] = system.kernels()
            except Exception as error:  # the measurement is valid without a profile
                measured["profile"] = {"error": f"{type(error).__name__}: {error}"[:500]}
        return {**measured, "cell_seconds": time.monotonic() - started}

    def build(self, cell: Cell) -> Any:
        from systems_gpu import Imdbcls, TrainerAtItsBest

        choices = (*self.choices, f"head={cell.head}", f"batch_size={cell.batch_size}")
        settings = {"choices": choices, "rounds": self.rounds}
        name, _, option = cell.system.partition("_")
        if name == "imdbcls":
            return Imdbcls(settings, compiled=option == "compiled")
        return TrainerAtItsBest(settings, compiled=option == "compiled", flash=option == "flash")

    def call(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Call a method. Return its result, or the exception as a text under the key `error`."""
        try:
            return getattr(self, method)(*arguments)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"[:500]}


def serve(connection: Any, *arguments: Any) -> None:
    """Answer calls until the connection is closed."""
    from imdbcls.runtime.console import quiet_libraries
    from imdbcls.runtime.process import tune_process

    quiet_libraries()
    tune_process()
    measurer = Measurer(*arguments)
    while True:
        try:
            call = connection.recv()
        except EOFError:
            return
        connection.send(measurer.call(*call))
