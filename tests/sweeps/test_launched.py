"""A multirun with another Hydra launcher: its table of results, and failed jobs."""

from pathlib import Path

import pytest
from support.faults import FAULTY, faulty
from support.processes import TINY, start

pytestmark = pytest.mark.slow


def test_a_multirun_with_submitit_ends_with_the_table_of_its_runs(tmp_path: Path) -> None:
    """The second job fails. The first job finishes, and the command's table lists both."""
    arguments = ("--multirun", *TINY, *FAULTY, "+head.only_dropout=0.2", "head.dropout=0.1,0.2", "epochs=1")
    settings = ("hydra/launcher=submitit_local", "data.test_limit=16", "data.validation_limit=16")
    command = start(tmp_path, *arguments, *settings, environment=faulty("raise", at=2))
    assert command.wait() == 1, command.output
    done, failed, advice = command.output.splitlines()[-3:]
    assert done.split()[1] == "done" and "validation" in done
    assert failed.split()[1] == "failed" and "ZeroDivisionError: the second job's own mistake" in failed
    assert advice == "1 of 2 runs are not done. Run the same command again for the missing runs."
