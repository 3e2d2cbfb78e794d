"""Sweeps: create them, and tell agents what to do."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from support.fake_wandb.graphql_executor import Object, RequestError, connection
from support.fake_wandb.runs import run_object, upsert_run
from support.fake_wandb.store import ENTITY, Run, Store, Sweep


def upsert(store: Store, given: Mapping[str, Any]) -> Sweep:
    """Create a sweep from its YAML text, or change the state of a sweep."""
    sweep = store.sweeps.get(given.get("id") or "")
    if sweep is None:
        entity, project = given.get("entityName") or ENTITY, given.get("projectName") or "uncategorized"
        store.add_project(entity, project)
        identifier = store.new_id("sweep")
        sweep = Sweep(identifier, identifier, entity, project)
        store.sweeps[sweep.id] = sweep
    if given.get("config"):
        sweep.config_text, sweep.config = given["config"], yaml.safe_load(given["config"])
    sweep.state = given.get("state") or sweep.state
    sweep.display_name = given.get("displayName") or sweep.display_name
    store.save(sweep)
    return sweep


def register_agent(store: Store, given: Mapping[str, Any]) -> str:
    sweep = named(store, given["sweep"])
    agent = store.new_id("agent")
    sweep.agents[agent] = None
    store.save(sweep)
    return agent


def named(store: Store, name: str) -> Sweep:
    for sweep in store.sweeps.values():
        if sweep.name == name:
            return sweep
    raise RequestError(f"sweep {name} not found")


def heartbeat(store: Store, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the commands for an agent that reports which of its runs are alive."""
    agent = given["id"]
    sweep = next((each for each in store.sweeps.values() if agent in each.agents), None)
    if sweep is None:
        raise RequestError(f"agent {agent} not found")
    alive = [name for name, is_alive in json.loads(given.get("runState") or "{}").items() if is_alive]
    if sweep.state == "CANCELED":
        return [{"type": "exit"}]
    request_early_stops(store, sweep)
    if alive:
        return [{"type": "stop", "run_id": name} for name in alive if run_of(store, sweep, name).is_stop_requested]
    requeue(store, sweep, sweep.agents[agent])
    sweep.agents[agent] = None
    command = next_run(store, sweep) if sweep.state != "FINISHED" else None
    if command is None:
        sweep.state = "FINISHED" if not any(sweep.agents.values()) else sweep.state
        store.save(sweep)
        return [{"type": "exit"}]
    sweep.state, sweep.agents[agent] = "RUNNING", command["run_id"]
    store.save(sweep)
    return [command]


def run_of(store: Store, sweep: Sweep, name: str) -> Run:
    return store.runs[f"run:{sweep.entity}/{sweep.project}/{name}"]


def requeue(store: Store, sweep: Sweep, name: str | None) -> None:
    """Queue a run again if it was preempted, as the real server does, or if it is still marked as running."""
    run = None if name is None else run_of(store, sweep, name)
    if run is not None and run.state in ("preempted", "running") and not run.is_stop_requested:
        sweep.queue.append(run.name)


def next_run(store: Store, sweep: Sweep) -> dict[str, Any] | None:
    program = sweep.config.get("program")
    if sweep.queue:
        name = sweep.queue.pop(0)
        return {"type": "resume", "run_id": name, "args": sweep.arguments[name], "program": program}
    if sweep.num_handed_out >= sweep.config.get("run_cap", math.inf):
        return None
    chosen = next(itertools.islice(choices(sweep.config), sweep.num_handed_out, None), None)
    if chosen is None:
        return None
    sweep.num_handed_out += 1
    run, _ = upsert_run(
        store,
        {"name": store.new_id("swept"), "entityName": sweep.entity, "modelName": sweep.project, "sweep": sweep.name},
    )
    run.state = "pending"
    store.save(run)
    sweep.arguments[run.name] = {key: {"value": value} for key, value in chosen.items()}
    return {"type": "run", "run_id": run.name, "args": sweep.arguments[run.name], "program": program}


def choices(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of the parameters: all combinations of a grid in order, or an endless random search."""
    parameters = config["parameters"]
    if config["method"] == "grid":
        yield from grid(parameters)
        return
    generator = random.Random(0)
    while True:
        yield {name: drawn(parameter, generator) for name, parameter in parameters.items()}


def grid(parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = sorted(parameters)
    for values in itertools.product(*(grid_values(parameters[name]) for name in names)):
        yield dict(zip(names, values, strict=True))


def grid_values(parameter: Mapping[str, Any]) -> list[Any]:
    if "parameters" in parameter:
        return list(grid(parameter["parameters"]))
    return parameter["values"] if "values" in parameter else [parameter["value"]]


def drawn(parameter: Mapping[str, Any], generator: random.Random) -> Any:
    """Return a random value of a parameter with one of the distributions that W&B documents."""
    if "parameters" in parameter:
        return {name: drawn(each, generator) for name, each in parameter["parameters"].items()}
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return generator.choice(parameter["values"])
    kind = parameter.get("distribution", "uniform")
    low, high = parameter["min"], parameter["max"]
    if kind == "int_uniform":
        return generator.randint(low, high)
    if kind == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    if kind == "uniform":
        return generator.uniform(low, high)
    raise RequestError(f"unknown distribution {kind}")


def request_early_stops(store: Store, sweep: Sweep) -> None:
    """Apply `early_terminate: hyperband`: ask the worst running runs to stop.

    A run reaches a bracket when it has logged `min_iter`, `min_iter * eta`, … values of the metric. Of all runs that
    reached a bracket, only the best 1 / `eta` may continue.
    """
    rule = sweep.config.get("early_terminate")
    if not rule:
        return
    metric, sign = sweep.config["metric"]["name"], -1 if sweep.config["metric"].get("goal") == "maximize" else 1
    runs = [run for run in store.runs.values() if run.sweep == sweep.name]
    losses = {run.name: [sign * point[metric] for point in run.points() if metric in point] for run in runs}
    bracket = rule["min_iter"]
    while any(len(values) >= bracket for values in losses.values()):
        reached = sorted(min(values[:bracket]) for values in losses.values() if len(values) >= bracket)
        threshold = reached[max(0, math.ceil(len(reached) / rule.get("eta", 3)) - 1)]
        for run in runs:
            values = losses[run.name]
            if run.state == "running" and len(values) >= bracket and min(values[:bracket]) > threshold:
                run.is_stop_requested = True
                store.save(run)
        bracket *= rule.get("eta", 3)


def sweep_object(store: Store, sweep: Sweep) -> Object:
    runs = [run for run in store.runs.values() if run.sweep == sweep.name]
    return {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "displayName": sweep.display_name,
        "method": sweep.config.get("method"),
        "state": sweep.state,
        "description": sweep.config.get("description"),
        "config": sweep.config_text,
        "createdAt": sweep.created_at,
        "updatedAt": sweep.created_at,
        "runCount": len(runs),
        "runCountExpected": None,
        "bestLoss": None,
        "controller": None,
        "scheduler": None,
        "heartbeatAt": sweep.created_at,
        "earlyStopJobRunning": False,
        "project": {"id": sweep.project, "name": sweep.project, "entity": {"id": "e", "name": sweep.entity}},
        "runs": lambda given: connection([run_object(store, run) for run in runs], given),
    }
