"""A plugin that fails at a chosen point."""

from pathlib import Path

PLUGINS = {"PYTHONPATH": str(Path(__file__).parent / "plugins")}


FAULTY = ("+plugins=[faulty]", "head._target_=faulty.FaultyHead")


def faulty(fault: str, at: int = 1) -> dict[str, str]:
    return {**PLUGINS, "FAULT": fault, "FAULT_AT": str(at)}
