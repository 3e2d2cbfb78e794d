"""A fake W&B server for the real client programs: runs, artifacts, saved views, alerts, sweeps and agents.

`FakeWandb` starts it in a process of its own. It keeps everything that it receives in JSON files.
"""

from support.fake_wandb.client import KEY, PATIENT, FakeWandb

__all__ = ["KEY", "PATIENT", "FakeWandb"]
