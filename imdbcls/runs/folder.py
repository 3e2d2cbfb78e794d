"""The run folder, runs/<study>/<name>/: what a run is called, what it records, who may write in it.

Its files are a contract that other tools read: `config.yaml`, `metrics.jsonl`, `result.json`, `predictions/*.parquet`
and `checkpoints/`.
"""

import errno
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import FORMAT_VERSION, RESULT, OtherVersion, require_version
from imdbcls.runs.identity import run_name
from imdbcls.runs.record import SPLITS, problem_of_predictions, problem_of_result
from imdbcls.runs.untrusted import read_json, read_yaml, require_no_links, require_regular_file
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.locks import file_lock

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)


class RunFolder:
    """One run's folder and the only writer of its record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path.parent
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"  # the encoder's configuration and the tokenizer, without weights
        self._result = path / "result.json"
        self.is_new = False  # whether `locked` found it empty, and `begin` has not been called since
        self._made: list[Path] = []  # the folders that `locked` made, the deepest first

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. The lock ends with the process; `runtime.locks` says what holds on NFS.

        Raises UserError if another process holds it, or if nothing can be written or locked there.
        """
        from filelock import Timeout

        path = self.path / ".lock"
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                require_regular_file(path)
            lock = file_lock(path, on_acquired=write_holder).acquire(blocking=False)
        except Timeout as error:
            raise UserError(self._held_by_another(path)) from error
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise UserError(f"{self.path} lies on a file system that cannot lock files ({error}).") from error
            raise UserError(
                f"{self.path} cannot be written to ({error.strerror}: {error.filename or path}); choose another "
                "runs_dir."
            ) from error
        with lock:
            self.is_new = os.listdir(self.path) == [".lock"]
            yield

    def _held_by_another(self, lock: Path) -> str:
        if not lock.exists():  # the other process removed the new folder at this moment
            return f"The run {self.path} was being worked on by another process; start it again."
        holder = ""
        with suppress(OSError):
            holder = lock.read_text(encoding="utf-8", errors="replace").strip()
        num_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
        several = f" srun started this command {num_tasks} times: start it once, or give each task its own seed."
        return (
            f"The run {self.path} is being worked on by {holder or 'another process'}; wait for it or stop it."
            f"{several if num_tasks.isdigit() and int(num_tasks) > 1 else ''}"
        )

    def begin(self) -> None:
        """Keep the folder from here on, whatever happens: training begins."""
        self.is_new = False

    def discard(self) -> None:
        """Remove the folder, which must be new and locked, and the folders above that were made for it."""
        assert self.is_new, f"{self.path} holds a run"
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # it holds another run
                folder.rmdir()

    def result(self) -> dict[str, Any] | None:
        """Return the content of `result.json`, or None if it is missing or cannot be read."""
        try:
            return read_json(self._result)
        except UserError:
            return None

    def require_version(self) -> None:
        """Raise UserError if `result.json` is in another format version than this imdbcls reads.

        A missing or damaged file passes, and so does one that no version wrote, without `config_hash`: `problem`
        describes it.
        """
        result = self.result()
        if result is None or "config_hash" not in result:
            return
        try:
            require_version(result, RESULT)
        except OtherVersion as error:
            raise UserError(
                f"{self._result} {error}. Use the imdbcls that wrote it, or move {self.path} away and train the run "
                "again."
            ) from error

    def problem(self) -> str | None:
        """Return why `result.json` is not that of a finished run; None if it is."""
        if not self._result.exists():
            return "result.json is missing"
        try:
            found = problem_of_result(read_json(self._result))
        except UserError as error:
            return str(error).replace(str(self._result), "result.json").rstrip(".")
        return None if found is None else f"result.json {found}"

    def finished(self) -> dict[str, Any] | None:
        """Return the result of a run that was trained and scored, else None."""
        return self.result() if self.problem() is None else None

    def complete(self) -> dict[str, Any] | None:
        """Return the result of a finished run that still has its predictions, else None: then there is work to do."""
        result = self.finished()
        return result if result is not None and self._damage_of(result) is None else None

    def open_for_training(self) -> dict[str, Any] | None:
        """Return the result of a run that is complete, after logging that nothing is left to do.

        Otherwise return None: the run is to be started or continued. A damaged `result.json` is then renamed, so that
        the run does not overwrite it. Raises UserError for a folder that holds links, because it is written to, and
        for one in another format version.
        """
        require_no_links(self.path)
        self.require_version()
        result = self.complete()
        if result is not None:
            logger.info(
                f"{self.path} is done already: test accuracy {result['test/accuracy']:.2%}. Nothing was run. To run "
                "it again, for example after a change to the code, move the folder away."
            )
            return result
        if (damage := self._damage()) is not None:
            kept = self._set_result_aside()
            logger.warning(
                f"{self.path}: {damage}. The old result.json is kept as {kept.name}; the run continues from its "
                "checkpoints, or starts again where it has none."
            )
        return None

    def _damage(self) -> str | None:
        """Return what is damaged in the record of a finished run; None if it is complete or the run is not finished."""
        result = self.result()
        if result is not None and result.get("status") in ("failed", "interrupted"):
            return None
        if not self._result.exists():
            return None
        return self.problem() or (None if result is None else self._damage_of(result))

    def _damage_of(self, result: Mapping[str, Any]) -> str | None:
        """Return what is wrong next to a usable result, in a folder that the training command named (`run_name`)."""
        if not self.path.name.endswith(result["config_hash"][:8]):
            return "result.json is that of another run (config_hash)"
        problems = (problem_of_predictions(self.path, result, split) for split in SPLITS)
        return next((problem for problem in problems if problem is not None), None)

    def _set_result_aside(self) -> Path:
        number = 1
        while (kept := self.path / f"result.json.old-{number}").exists():
            number += 1
        return self._result.rename(kept)

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write `result.json` with its format version, and return its content."""
        content = {FORMAT_VERSION: RESULT, **result}
        write_atomically(self._result, json_text(content, indent=2) + "\n")
        return content

    def config(self) -> dict[str, Any]:
        """Return the config that the run was started with. Raises UserError if it is missing or cannot be read."""
        return read_yaml(self.path / "config.yaml")

    def write_config(self, config: "Config") -> None:
        write_atomically(self.path / "config.yaml", str(config))


def write_holder(descriptor: int) -> None:
    """Write which process holds a lock into its open file."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def run_folder(config: "Config") -> RunFolder:
    """Return the folder of the run with this config; absolute if Hydra changed the directory (`hydra.job.chdir`)."""
    from hydra.core.hydra_config import HydraConfig

    path = Path(config.runs_dir) / config.study / run_name(config)
    has_moved = HydraConfig.initialized() and Path(HydraConfig.get().runtime.cwd) != Path.cwd()
    return RunFolder(path.absolute() if has_moved else path)
