"""Runs: opening, resuming, the file stream, filters, and what `wandb.Api` reads."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from support.fake_wandb.graphql_executor import Object, RequestError, connection
from support.fake_wandb.store import ENTITY, Run, Store, now

LINE_FILES = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "console"}


def upsert_run(store: Store, given: Mapping[str, Any]) -> tuple[Run, bool]:
    """Create or update a run. Return the run and whether it is new."""
    run = store.runs.get(given.get("id", ""))
    if run is None:
        entity, project = given.get("entityName") or ENTITY, given.get("modelName") or "uncategorized"
        store.add_project(entity, project)
        run = store.run(entity, project, given["name"])
    is_new = run is None
    if run is None:
        run = Run(entity, project, given["name"])
        store.runs[run.id] = run
    if "name" in given and (run.exit_code is not None or run.state == "pending"):  # a client opens the run
        run.state, run.exit_code, run.is_preempting = "running", None, False
    names = {"groupName": "group", "jobType": "job_type", "notes": "notes", "displayName": "display_name"}
    names |= {"tags": "tags", "commit": "commit", "host": "host", "jobProgram": "program", "sweep": "sweep"}
    for key, name in names.items():
        if given.get(key) is not None:
            setattr(run, name, given[key])
    for key, name in {"config": "config", "summaryMetrics": "summary"}.items():
        if given.get(key) is not None:
            setattr(run, name, json.loads(given[key]))
    run.display_name = run.display_name or run.name
    run.updated_at = now()
    store.save(run)
    return run, is_new


def forget_stop(store: Store, variables: Mapping[str, Any]) -> None:
    """Drop the request to stop a run, because a client is about to continue it."""
    run = store.run(variables.get("entity") or ENTITY, variables.get("project") or "uncategorized", variables["name"])
    if run is not None:
        run.is_stop_requested = False


def receive(store: Store, run: Run, body: Mapping[str, Any]) -> dict[str, Any]:
    """Handle one request of the file stream. With offset 0, the new lines replace all lines of the file."""
    for name, chunk in (body.get("files") or {}).items():
        if name in LINE_FILES:
            lines = getattr(run, LINE_FILES[name])
            offset = chunk.get("offset", 0)
            lines[offset : offset + len(chunk["content"]) if offset else None] = chunk["content"]
        elif name == "wandb-summary.json":
            run.summary = json.loads(chunk["content"][-1])
    if body.get("preempting"):
        run.is_preempting = True
    if body.get("complete"):
        run.exit_code = body.get("exitcode", 0)
        run.state = "finished" if run.exit_code == 0 else "preempted" if run.is_preempting else "failed"
    run.updated_at = now()
    store.save(run)
    return {"exitcode": run.exit_code, "limits": {}, "stopped": run.is_stop_requested}


def run_object(store: Store, run: Run) -> Object:
    """Return a run as the type `Run` (or `Bucket`) of the API."""
    files = [file_object(store, run, name) for name in run.files]
    points = run.points()
    return {
        "__typename": "Run",
        "id": run.id,
        "name": run.name,
        "displayName": run.display_name,
        "description": "",
        "notes": run.notes,
        "tags": run.tags,
        "group": run.group,
        "groupName": run.group,
        "jobType": run.job_type,
        "commit": run.commit,
        "host": run.host,
        "sweepName": run.sweep,
        "state": run.state,
        "exitcode": run.exit_code,
        "failed": run.state == "failed",
        "running": run.state == "running",
        "stopped": run.is_stop_requested,
        "shouldStop": run.is_stop_requested,
        "readOnly": False,
        "createdAt": run.created_at,
        "heartbeatAt": run.updated_at,
        "updatedAt": run.updated_at,
        "config": json.dumps(run.config),
        "wandbConfig": json.dumps(run.config.get("_wandb", {}).get("value", {})),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "historyKeys": history_keys(points),
        "historyLineCount": len(run.history),
        "eventsLineCount": len(run.events),
        "logLineCount": len(run.console),
        "historyTail": json.dumps(run.history[-1:]),
        "eventsTail": json.dumps(run.events[-1:]),
        "history": lambda given: history(points, given),
        "events": run.events,
        "sampledHistory": lambda given: [sampled(points, json.loads(spec)) for spec in as_list(given["specs"])],
        "parquetHistory": {"parquetUrls": [], "liveData": points},
        "user": {"__typename": "User", "name": ENTITY, "username": ENTITY},
        "project": {
            "id": f"{run.entity}/{run.project}",
            "name": run.project,
            "entity": {"id": "e", "name": run.entity},
        },
        "projectId": 1,
        "fileCount": len(files),
        "files": lambda given: connection(
            [file for file in files if file["name"] in (given.get("names") or run.files)], given
        ),
        "logLines": lambda given: connection(console_lines(run)[-given.get("last", 0) :], given),
        "outputArtifacts": lambda given: connection(artifacts_of(store, created_by=run), given),
        "inputArtifacts": lambda given: connection(artifacts_of(store, used_by=run), given),
    }


def artifacts_of(store: Store, created_by: Run | None = None, used_by: Run | None = None) -> list[Object]:
    from support.fake_wandb.artifacts import artifact_object

    return [
        artifact_object(store, each)
        for each in store.artifacts.values()
        if each.state == "COMMITTED"
        and ((created_by and each.created_by == created_by.id) or (used_by and used_by.id in each.used_by))
    ]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def history(points: list[dict[str, Any]], given: Mapping[str, Any]) -> list[str]:
    first, last = given.get("minStep", 0), given.get("maxStep", float("inf"))
    return [json.dumps(point) for point in points if first <= point.get("_step", 0) < last]


def sampled(points: list[dict[str, Any]], spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = spec.get("keys") or []
    return [{key: point[key] for key in keys} for point in points if all(key in point for key in keys)]


def history_keys(points: list[dict[str, Any]]) -> dict[str, Any]:
    keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for point in points for key in point}
    return {"sets": [], "keys": keys, "lastStep": points[-1].get("_step", -1) if points else -1}


def console_lines(run: Run) -> list[Object]:
    return [{"number": number, "line": line, "level": None} for number, line in enumerate(run.console)]


def file_object(store: Store, run: Run, name: str) -> Object:
    path = store.run_file(run, name)
    url = f"{store.host}/run-files/{quote(run.id, safe='')}/{quote(name)}"
    size = path.stat().st_size if path.exists() else 0
    kinds = {"__typename": "File", "mimetype": None, "updatedAt": run.updated_at, "md5": None}
    return {
        "id": f"{run.id}/{name}",
        "name": name,
        "displayName": name,
        "sizeBytes": size,
        "url": url,
        "directUrl": url,
    } | kinds


def selected_runs(store: Store, entity: str, project: str, given: Mapping[str, Any]) -> list[Run]:
    """Return the runs of a project that match the MongoDB filter `filters`, sorted by `order`."""
    wanted = json.loads(given.get("filters") or "{}")
    runs = [
        run for run in store.runs.values() if (run.entity, run.project) == (entity, project) and matches(run, wanted)
    ]
    order = given.get("order") or "+created_at"
    key = order.lstrip("+-")
    known = [run for run in runs if value_at(run, key) is not None]
    known.sort(key=lambda run: value_at(run, key), reverse=order.startswith("-"))
    return known + [run for run in runs if value_at(run, key) is None]


def value_at(run: Run, path: str) -> Any:
    """Return the value at a path of a filter, such as `group`, `config.lr.value` or `summary_metrics.val/loss`."""
    names = {"display_name": "displayName", "createdAt": "created_at", "created_at": "created_at"}
    fields = {"group": run.group, "jobType": run.job_type, "state": run.state, "tags": run.tags, "sweep": run.sweep}
    fields |= {"name": run.name, "displayName": run.display_name, "created_at": run.created_at}
    section, _, rest = path.partition(".")
    if section == "summary_metrics":
        return nested(run.summary, rest)
    if section == "config":
        return nested(run.values(), rest.replace(".value", ""))
    path = names.get(path, path)
    if path not in fields:
        raise RequestError(f"unknown filter {path}")
    return fields[path]


def nested(values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        return None
    if path in values:
        return values[path]
    first, _, rest = path.partition(".")
    return nested(values.get(first), rest) if rest else None


def matches(run: Run, wanted: Mapping[str, Any]) -> bool:
    return all(matches_key(run, key, value) for key, value in wanted.items())


def matches_key(run: Run, key: str, wanted: Any) -> bool:
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)([matches(run, each) for each in wanted])
    if key == "$not":
        return not matches(run, wanted)
    value = value_at(run, key)
    conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    return all(holds(value, operator, operand) for operator, operand in conditions.items())


def holds(value: Any, operator: str, operand: Any) -> bool:
    if operator in ("$gt", "$gte", "$lt", "$lte") and value is None:
        return False
    tests = {
        "$eq": lambda: value == operand or (isinstance(value, list) and operand in value),
        "$ne": lambda: not holds(value, "$eq", operand),
        "$in": lambda: any(holds(value, "$eq", each) for each in operand),
        "$nin": lambda: not any(holds(value, "$eq", each) for each in operand),
        "$regex": lambda: re.search(operand, str(value)) is not None,
        "$gt": lambda: value > operand,
        "$gte": lambda: value >= operand,
        "$lt": lambda: value < operand,
        "$lte": lambda: value <= operand,
    }
    if operator not in tests:
        raise RequestError(f"unknown operator {operator}")
    return tests[operator]()
