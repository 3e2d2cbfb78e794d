"""Query the Linux capabilities of this process, and drop some of them temporarily."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

# Constants and structures from linux/capability.h.
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, SYS_ADMIN = 0, 1, 2, 21
VERSION_3 = 0x20080522
STATUS = Path("/proc/thread-self/status")


class Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def has_capability(number: int) -> bool:
    if not STATUS.exists():
        return False
    (effective,) = (line for line in STATUS.read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


@contextlib.contextmanager
def without_capabilities(*numbers: int) -> Iterator[None]:
    """Drop the given capabilities of this thread until the block ends. Missing capabilities are ignored."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(VERSION_3, 0), (Data * 2)()

    def call(name: str) -> None:
        if getattr(libc, name)(ctypes.byref(header), sets) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    call("capget")
    before = sets[0].effective
    sets[0].effective = before & ~sum(1 << number for number in numbers)
    call("capset")
    try:
        yield
    finally:
        sets[0].effective = before
        call("capset")
