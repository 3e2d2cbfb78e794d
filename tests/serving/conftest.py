"""A second finished run, with another head, next to the session's run of `head=lstm`."""

from pathlib import Path

import pytest
from support.runs import TINY, Launch


@pytest.fixture(scope="session")
def second(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    launch(folder, "train", "head=weight_avg", *TINY, "epochs=1", "tracker=none", "runs_dir=runs", "study=other")
    (run,) = (folder / "runs" / "other").iterdir()
    return run
