"""Make a command fail at a chosen point: with a faulty plugin, a kill or a full disk."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

PLUGINS = {"PYTHONPATH": str(Path(__file__).parent / "plugins")}


FAULTY = ("+plugins=[faulty]", "head._target_=faulty.FaultyHead")


WAITING = "the faulty head waits"  # printed when a fault that waits begins


def faulty(fault: str, at: int = 1) -> dict[str, str]:
    return {**PLUGINS, "FAULT": fault, "FAULT_AT": str(at), "WAITING": WAITING}


def kill_at_sync(number: int) -> None:
    """Let this process kill itself (SIGKILL) when `predict` has written, but not synced, its chunk `number`."""
    from imdbcls.data import answer_file

    sync_file, calls = answer_file.sync_file, []

    def killing_sync(file: Any) -> None:
        calls.append(file)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sync_file(file)

    answer_file.sync_file = killing_sync


def fill_disk_at_save(number: int, filler: Path) -> None:
    """Let this process fill the disk of `filler` while it writes its checkpoint number `number`, counted from 1.

    The disk stays full until the process ends: space that is freed later is also filled.
    """
    from imdbcls.training import checkpoint

    save, save_file, saves = checkpoint.save, checkpoint.save_file, []

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass

    def keep_full() -> None:
        while True:
            fill()
            time.sleep(0.001)

    def counting_save(*arguments: Any) -> None:
        saves.append(arguments)
        save(*arguments)

    def filling_save_file(*arguments: Any) -> None:
        if len(saves) == number:
            fill()
            threading.Thread(target=keep_full, daemon=True).start()
        save_file(*arguments)

    checkpoint.save, checkpoint.save_file = counting_save, filling_save_file
