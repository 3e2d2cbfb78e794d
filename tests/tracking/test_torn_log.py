"""Logs of killed processes: an incomplete record at the end is removed, and everything before it is kept."""

from pathlib import Path

import pytest
from support.trackers import logs, summary, tracker, train

from imdbcls.tracking.torn_log import BLOCK_LENGTH, end_of_records, remove_incomplete_record


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a real W&B log of more than one block."""
    monkeypatch.chdir(tmp_path)
    with tracker(mode="offline") as run:
        train(run, last=400)
    (found,) = logs()
    assert found.stat().st_size > BLOCK_LENGTH
    return found


def test_a_complete_log_is_unchanged(log: Path) -> None:
    before = log.read_bytes()
    assert end_of_records(before) == len(before)
    remove_incomplete_record(log)
    assert log.read_bytes() == before


@pytest.mark.parametrize("end", [5_000, BLOCK_LENGTH - 3, BLOCK_LENGTH, BLOCK_LENGTH + 3, BLOCK_LENGTH + 900])
def test_an_incomplete_record_is_removed(log: Path, end: int) -> None:
    before = log.read_bytes()
    log.write_bytes(before[:end])
    remove_incomplete_record(log)
    after = log.read_bytes()
    assert before.startswith(after) and end - 1_000 < len(after) <= end
    assert end_of_records(after) == len(after)
    assert 0 < summary(log)["step"] < 400  # W&B reads the rest


def test_zeros_at_the_end_are_removed(log: Path) -> None:
    """A file system may extend a file with zeros after a power failure."""
    before = log.read_bytes()
    log.write_bytes(before + bytes(100))
    remove_incomplete_record(log)
    assert log.read_bytes() == before


def test_other_files_and_links_are_unchanged(log: Path, tmp_path: Path) -> None:
    other, link = tmp_path / "notes.wandb", tmp_path / "link.wandb"
    other.write_text("This is not a log.")
    remove_incomplete_record(other)
    assert other.read_text() == "This is not a log."
    torn = log.read_bytes()[:5_000]
    log.write_bytes(torn)
    link.symlink_to(log)
    remove_incomplete_record(link)
    assert log.read_bytes() == torn
