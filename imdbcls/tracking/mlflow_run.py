"""Create, continue and fill a run in MLflow. This module imports mlflow."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# mlflow reads these variables when it is imported. By default, it sends usage data to its authors.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.locks import build_lock
from imdbcls.tracking.mlflow_names import valid_names
from imdbcls.tracking.pages import spelled
from imdbcls.tracking.protocol import Table

logging.getLogger("alembic").setLevel(logging.WARNING)


class MlflowRun:
    """One MLflow run in the store at `uri`. `folder` contains the run's id and, for a local store, the artifacts."""

    def __init__(self, uri: str, folder: Path, experiment: str, name: str, *, resume: bool) -> None:
        self.is_new = True
        self._client = MlflowClient(tracking_uri=uri)
        self._known = folder / f"{name}.json"  # the ids of the run and of its experiment
        folder.mkdir(parents=True, exist_ok=True)
        with build_lock(folder / ".mlflow.lock"):  # jobs may create the store at the same time
            experiment_id = self._experiment(experiment, folder)
        earlier = self._earlier(experiment_id)
        if earlier is not None and resume:
            self.is_new, self.id = False, earlier
            self._client.update_run(earlier, status="RUNNING")
        else:
            if earlier is not None:  # a run that starts from the beginning replaces its earlier MLflow run
                self._client.delete_run(earlier)
            self.id = self._client.create_run(experiment_id, run_name=name).info.run_id
            write_atomically(
                self._known, json.dumps({"experiment": experiment_id, "run": self.id}) + "\n", durable=False
            )
        is_server = uri.startswith(("http://", "https://"))
        self.url = f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{self.id}" if is_server else None

    def _experiment(self, name: str, folder: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        is_local = self._client.tracking_uri == local_uri(folder)
        return str(self._client.create_experiment(name, (folder / "artifacts").as_uri() if is_local else None))

    def _earlier(self, experiment_id: str) -> str | None:
        """Return the id of the MLflow run that an earlier process created for this run.

        Return None if there is no such MLflow run, or if it was deleted or is in another store or experiment.
        """
        try:
            known = json.loads(self._known.read_text(encoding="utf-8"))
            run = self._client.get_run(known["run"])
        except Exception:  # no file, a damaged file, or a run that was deleted or is in another store
            return None
        is_same = run.info.experiment_id == experiment_id and run.info.lifecycle_stage == "active"
        return str(known["run"]) if is_same else None

    def last_step(self) -> int:
        """Return the last logged step, or -1 if there is none. Every record of training has the metric `epoch`."""
        return max((each.step for each in self._client.get_metric_history(self.id, "epoch")), default=-1)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log params. `valid_names` replaces keys that MLflow does not allow."""
        names = valid_names(values, MAX_ENTITY_KEY_LENGTH)
        params = [Param(names[key], spelled(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in values.items()]
        for first in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self.id, params=params[first : first + MAX_PARAMS_TAGS_PER_BATCH])

    def set_tags(self, values: Mapping[str, Any]) -> None:
        tags = [RunTag(key, spelled(value)[:MAX_TAG_VAL_LENGTH]) for key, value in values.items() if value is not None]
        self._client.log_batch(self.id, tags=tags)

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log the metrics of all points in as few requests as possible.

        Each point is a pair: the time in milliseconds, and a mapping of names to values, including `step`.
        """
        names = valid_names({name for _, point in points for name in point}, MAX_ENTITY_KEY_LENGTH)
        metrics = [
            Metric(names[name], float(value), milliseconds, int(point["step"]))
            for milliseconds, point in points
            for name, value in point.items()
            if name != "step"
        ]
        for first in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            self._client.log_batch(self.id, metrics=metrics[first : first + MAX_METRICS_PER_BATCH])

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        """Log tables, keyed by artifact path, in the JSON format that MLflow's pages show as a table."""
        for path, (columns, rows) in tables.items():
            self._client.log_dict(self.id, {"columns": columns, "data": rows}, path)

    def log_file(self, file: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.id, str(file), folder)

    def end(self, status: str) -> None:
        self._client.set_terminated(self.id, status, int(time.time() * 1000))


def local_uri(folder: Path) -> str:
    """Return the URI of the local SQLite store in a folder."""
    return f"sqlite:///{folder.absolute() / 'mlflow.db'}"
