"""The run folder, `runs/<study>/<name>/`: its lock, its config and its result.

Other tools read the files of a run folder, so their names and formats are stable: `config.yaml`, `metrics.jsonl`,
`result.json`, `predictions/*.parquet` and `checkpoints/`.
"""

import errno
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import FORMAT_VERSION, RESULT, OtherVersionError, require_version
from imdbcls.runs.identity import run_name
from imdbcls.runs.record import SPLITS, problem_of_predictions, problem_of_result, problem_of_trial
from imdbcls.runs.untrusted import read_json, read_yaml, require_no_links, require_regular_file
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.locks import file_lock
from imdbcls.runtime.model_files import weights_of_run
from imdbcls.runtime.sweep_agent import in_sweep

if TYPE_CHECKING:
    from imdbcls.config.choices import KeptCheckpoints
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)


# How long to wait for the lock of a run. `comparison.run_files.is_locked` holds a shared lock for a moment, or about a
# second on a busy machine.
LOCK_SECONDS = 2.0
PRETRAINED = "pretrained"  # the status of a finished run of `imdbcls.pretrain`


class RunFolder:
    """The folder of one run. Only this class writes the run's `config.yaml` and `result.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path.parent
        self.checkpoints = path / "checkpoints"
        self.backbone = path / "backbone"  # the encoder's config and the tokenizer, without weights
        self._result = path / "result.json"
        self.identity: Mapping[str, Any] = {}  # `write_result` adds these fields, which identify the run
        self.is_new = False  # True from locking an empty folder until `begin` is called
        self._created: list[Path] = []  # the folders that `locked` created, the deepest first

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if necessary, and lock it for this process.

        The lock is released after the block or when the process ends. `runtime.locks` describes the behaviour on NFS.
        Raise UserError if another process holds the lock, or if the folder cannot be written or locked.
        """
        from filelock import Timeout

        path = self.path / ".lock"
        try:
            self._created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                require_regular_file(path)
            lock = file_lock(path, on_acquired=write_holder).acquire(timeout=LOCK_SECONDS, poll_interval=0.02)
        except Timeout as error:
            raise UserError(self._held_by_another(path)) from error
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise UserError(
                    f"{self.path} is on a file system that cannot lock files ({error}). Choose another runs_dir."
                ) from error
            # A missing lock file means that the other process removed its new folder while this process was waiting for
            # the lock. `mkdir` in /proc raises the same error, but with the folder as `filename`.
            if isinstance(error, FileNotFoundError) and error.filename == str(path):
                raise UserError(self._held_by_another(path)) from error
            raise UserError(
                f"{self.path} is not writable ({error.strerror}: {error.filename or path}). Choose another runs_dir."
            ) from error
        with lock:
            self.is_new = os.listdir(self.path) == [".lock"]
            yield

    def _held_by_another(self, lock: Path) -> str:
        if not lock.exists():  # the other process has just removed its new folder
            return f"The run {self.path} was in use by another process. Run the command again."
        holder = ""
        with suppress(OSError):
            holder = lock.read_text(encoding="utf-8", errors="replace").strip()
        num_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
        srun_advice = (
            f" srun started this command {num_tasks} times. Start it only once, or set a different seed for each task."
        )
        return (
            f"The run {self.path} is in use by {holder or 'another process'}. Wait for that process or stop it."
            f"{srun_advice if num_tasks.isdigit() and int(num_tasks) > 1 else ''}"
        )

    def begin(self) -> None:
        """Mark the start of training. After this call, the folder is kept even if the run fails."""
        self.is_new = False

    def discard(self) -> None:
        """Remove the folder, which must be new and locked, and the empty parents that `locked` created."""
        assert self.is_new, f"{self.path} contains a run"
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._created:
            with suppress(OSError):  # the folder is not empty, because it contains another run
                folder.rmdir()

    def result(self) -> dict[str, Any] | None:
        """Return the content of `result.json`, or None if it is missing or cannot be read."""
        try:
            return read_json(self._result)
        except UserError:
            return None

    def require_version(self) -> None:
        """Raise UserError if `result.json` has no format version, or one that this version of imdbcls cannot read.

        A file that is missing, damaged or without `config_hash` passes this check. `problem` detects such files.
        """
        result = self.result()
        if result is None or "config_hash" not in result:
            return
        try:
            require_version(result, RESULT)
        except OtherVersionError as error:
            raise UserError(
                f"{self._result} {error}. Use the imdbcls version that wrote it, or move {self.path} away and train "
                "the run again."
            ) from error

    def require_classifier(self) -> None:
        """Raise UserError if this is a run of `imdbcls.pretrain`, which has no head that classifies documents."""
        if (self.result() or {}).get("status") == PRETRAINED:
            raise UserError(
                f"{self.path} is a pretrained encoder without a head for classification. Fine-tune it first: "
                f"python -m imdbcls.train backbone.path={self.path}"
            )

    def problem(self) -> str | None:
        """Return the reason why `result.json` does not describe a finished run, or None if the run is finished."""
        if not self._result.exists():
            return "result.json is missing"
        try:
            found = problem_of_result(read_json(self._result))
        except UserError as error:
            return str(error).replace(str(self._result), "result.json").rstrip(".")
        return None if found is None else f"result.json {found}"

    def finished(self) -> dict[str, Any] | None:
        """Return the result if the run is finished (trained and evaluated), else None."""
        return self.result() if self.problem() is None else None

    def complete(self) -> dict[str, Any] | None:
        """Return the result if the run is finished and its predictions and folder name match the result, else None."""
        result = self.finished()
        return result if result is not None and self._damage_of(result) is None else None

    def finished_trial(self) -> dict[str, Any] | None:
        """Return the result if this is a finished or pruned trial of a tuning study, else None."""
        result = self.result()
        if result is None or problem_of_trial(result) is not None:
            return None
        return result if self._has_name_of(result) else None

    def finished_pretraining(self) -> dict[str, Any] | None:
        """Return the result if this is a finished run of `imdbcls.pretrain` with its weights, else None."""
        result = self.result()
        if result is None or result.get("status") != PRETRAINED or not weights_of_run(self.path).is_file():
            return None
        return result if self._has_name_of(result) else None

    def open_for_training(self) -> dict[str, Any] | None:
        """Return the result if the run is complete. Otherwise return None: the caller must start or resume the run.

        In a W&B sweep, also return the result of a run that W&B stopped.

        If `result.json` or the predictions are damaged, `result.json` is first renamed, so that the run does not
        overwrite it. Raise UserError if the format version of `result.json` is not supported, or if the run is a trial
        of a tuning study. Also raise UserError if the folder contains links, because training could then write to
        files outside the folder.
        """
        require_no_links(self.path)
        self.require_version()
        if self.finished_trial() is not None:
            raise UserError(
                f"{self.path} is a trial of a tuning study, which is never evaluated on the test split. Train this "
                "configuration in another study: study=NAME."
            )
        result = self.complete()
        if result is not None:
            logger.info(
                f"{self.path} is already done: test accuracy {result['test/accuracy']:.2%}. Nothing was run. To train "
                "the run again, for example after a code change, move the folder away."
            )
            self._discard_leftover_checkpoints()
            return result
        stopped = self.result()
        if in_sweep() and stopped is not None and stopped.get("status") == "stopped":
            logger.info(f"{self.path} was stopped by W&B and is not trained further in a sweep. {how_to_continue()}")
            return stopped
        self._set_damage_aside()
        return None

    def open_for_trial(self) -> dict[str, Any] | None:
        """Return the result of a finished or pruned trial. Otherwise return None: the caller must start or resume it.

        Raise UserError as `open_for_training` does for unsupported format versions and links. Also raise UserError if
        the folder contains a run that was evaluated on test.
        """
        require_no_links(self.path)
        self.require_version()
        result = self.finished_trial()
        if result is None and self.finished() is not None:
            raise UserError(
                f"{self.path} contains a finished run, not a trial of a tuning study. Use another study for tuning: "
                "study=NAME."
            )
        if result is None:
            self._set_damage_aside()
        else:
            self.discard_checkpoints()  # a process that was killed after writing the result may have left them
        return result

    def open_for_pretraining(self) -> dict[str, Any] | None:
        """Return the result of a finished pretraining run. Otherwise return None: the caller must start or resume it.

        Raise UserError as `open_for_training` does for unsupported format versions and links.
        """
        require_no_links(self.path)
        self.require_version()
        if (result := self.finished_pretraining()) is not None:
            logger.info(
                f"{self.path} is already done: masked loss {result['val/loss']:.4f}. Nothing was run. To pretrain "
                "again, for example after a code change, move the folder away."
            )
            self._discard_leftover_checkpoints()
            return result
        self._set_damage_aside()
        return None

    def _set_damage_aside(self) -> None:
        """Rename `result.json` if this file or the predictions are damaged."""
        if (damage := self._damage()) is not None:
            backup = self._rename_result()
            logger.warning(
                f"{self.path}: {damage}. The old result.json was renamed to {backup.name}. The run resumes from its "
                "last checkpoint, or starts again if it has no checkpoint."
            )

    def _damage(self) -> str | None:
        """Describe the damage to a finished run's files in a clause. Return None for complete and unfinished runs."""
        result = self.result()
        if result is not None and result.get("status") in ("failed", "interrupted", "stopped"):
            return None
        if not self._result.exists():
            return None
        return self.problem() or (None if result is None else self._damage_of(result))

    def _damage_of(self, result: Mapping[str, Any]) -> str | None:
        """Return why a valid result does not match the folder's name or the predictions, or None if it matches both."""
        if not self._has_name_of(result):
            return "result.json belongs to another run (config_hash)"
        problems = (problem_of_predictions(self.path, result, split) for split in SPLITS)
        return next((problem for problem in problems if problem is not None), None)

    def _has_name_of(self, result: Mapping[str, Any]) -> bool:
        """Return whether the folder's name contains the hash of the result's config."""
        return self.path.name.endswith(result["config_hash"][:8])

    def _rename_result(self) -> Path:
        number = 1
        while (backup := self.path / f"result.json.old-{number}").exists():
            number += 1
        return self._result.rename(backup)

    def discard_checkpoints(self, keep: "KeptCheckpoints" = "none") -> None:
        """Remove the checkpoints of a finished run or trial, except those in `keep`."""
        if keep == "none":
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        elif keep == "best":
            shutil.rmtree(self.checkpoints / "last", ignore_errors=True)

    def _discard_leftover_checkpoints(self) -> None:
        """Remove checkpoints of a finished run that a process left because it was killed after writing the result.

        `checkpoint.keep` in the run's `config.yaml` decides. Without this key, keep all checkpoints.
        """
        with suppress(UserError, LookupError, TypeError):  # config.yaml is damaged, or from an earlier version
            self.discard_checkpoints(self.config()["checkpoint"]["keep"])

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write `result.json`, and return its content: the format version, `identity` and `result`.

        A field of `result` cannot replace a field of `identity`.
        """
        fixed = {FORMAT_VERSION: RESULT, **self.identity}
        content = {**fixed, **result, **fixed}  # `fixed` is first in the file
        write_atomically(self._result, json_text(content, indent=2) + "\n")
        return content

    def config(self) -> dict[str, Any]:
        """Return the content of `config.yaml`. Raise UserError if the file is missing or cannot be read."""
        return read_yaml(self.path / "config.yaml")

    def write_config(self, config: "Config") -> None:
        write_atomically(self.path / "config.yaml", str(config))


def how_to_continue() -> str:
    """Return how to continue a run that W&B stopped, with the Hydra overrides in `sys.argv`."""
    return f"To train the run to the end outside a sweep: python -m imdbcls.train {shlex.join(sys.argv[1:])}"


def write_holder(descriptor: int) -> None:
    """Write the process id and the host name into the open lock file, for the error message of other processes."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def run_folder(config: "Config") -> RunFolder:
    """Return the run folder of a config.

    The path of the folder is absolute if Hydra changed the working directory (`hydra.job.chdir`).
    """
    from hydra.core.hydra_config import HydraConfig

    path = Path(config.runs_dir) / config.study / run_name(config)
    has_moved = HydraConfig.initialized() and Path(HydraConfig.get().runtime.cwd) != Path.cwd()
    return RunFolder(path.absolute() if has_moved else path)
