"""The GraphQL operations of the fake server."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from support.fake_wandb import artifacts, sweeps
from support.fake_wandb.graphql_executor import Object, RequestError, connection
from support.fake_wandb.runs import run_object, selected_runs, upsert_run
from support.fake_wandb.store import ENTITY, Run, Store, View, now


def roots(store: Store) -> dict[str, Object]:
    """Return the objects of `query` and `mutation`."""
    return {"query": queries(store), "mutation": mutations(store)}


def queries(store: Store) -> Object:
    def project(given: Mapping[str, Any]) -> Object | None:
        return project_object(store, given.get("entityName") or ENTITY, given["name"])

    def projects(given: Mapping[str, Any]) -> Object:
        entity = given.get("entityName") or ENTITY
        return connection([project_object(store, *key) for key in store.projects if key[0] == entity], given)

    def artifact(given: Mapping[str, Any]) -> Object | None:
        found = store.artifacts.get(given["id"])
        return found and artifacts.artifact_object(store, found)

    def collection(given: Mapping[str, Any]) -> Object | None:
        names = given["id"].removeprefix("sequence:").split("/")
        found = artifacts.versions(store, *names)
        return artifacts.collection_object(store, found[0]) if found else None

    def view(given: Mapping[str, Any]) -> Object | None:
        found = store.views.get(given["id"])
        return found and view_object(found)

    return {
        "viewer": viewer(),
        "serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None},
        "entity": entity_object,
        "project": project,
        "model": project,
        "models": projects,
        "artifact": artifact,
        "artifactCollection": collection,
        "view": view,
        "clientIDMapping": lambda given: {"serverID": artifacts.by_client_id(store, given["clientID"])},
        "organization": lambda _: None,
    }


def viewer() -> Object:
    names = {"__typename": "User", "id": "user", "name": ENTITY, "username": ENTITY, "entity": ENTITY}
    lists = {"teams": {"edges": []}, "apiKeys": {"edges": []}}
    return names | lists | {"email": f"{ENTITY}@example.org", "flags": "{}", "admin": False, "deletedAt": None}


def entity_object(given: Mapping[str, Any]) -> Object:
    switches = {"isTeam": False, "codeSavingEnabled": False, "xxhashDigestsEnabled": False, "available": True}
    return {"__typename": "Entity", "id": "e", "name": given["name"], "organization": None, "user": None} | switches


def project_object(store: Store, entity: str, project: str) -> Object | None:
    if (entity, project) not in store.projects:
        return None

    def run(given: Mapping[str, Any]) -> Object | None:
        found = store.run(entity, project, given["name"])
        return found and run_object(store, found)

    def runs(given: Mapping[str, Any]) -> Object:
        return connection([run_object(store, each) for each in selected_runs(store, entity, project, given)], given)

    def views(given: Mapping[str, Any]) -> Object:
        found = [
            view_object(each)
            for each in store.views.values()
            if (each.entity, each.project, each.type) == (entity, project, given.get("viewType", "runs"))
            and given.get("viewName", each.name) == each.name
        ]
        return connection(found, given)

    def collection(given: Mapping[str, Any]) -> Object | None:
        found = artifacts.versions(store, entity, project, given["name"])
        return artifacts.collection_object(store, found[0]) if found else None

    def collections(type_name: str | None, given: Mapping[str, Any]) -> Object:
        names = {
            each.collection: each
            for each in store.artifacts.values()
            if (each.entity, each.project, each.state) == (entity, project, "COMMITTED")
            and type_name in (None, each.type)
        }
        return connection([artifacts.collection_object(store, each) for each in names.values()], given)

    def type_object(name: str) -> Object:
        return {
            "__typename": "ArtifactType",
            "id": f"type:{name}",
            "name": name,
            "description": None,
            "createdAt": created_at,
            "artifactCollection": collection,
            "artifactCollections": lambda given: collections(name, given),
        }

    def types(given: Mapping[str, Any]) -> Object:
        names = {each.type for each in store.artifacts.values() if (each.entity, each.project) == (entity, project)}
        return connection([type_object(name) for name in sorted(names)], given)

    def artifact(given: Mapping[str, Any]) -> Object | None:
        found = artifacts.find(store, entity, project, given["name"])
        return found and artifacts.artifact_object(store, found)

    def sweep(given: Mapping[str, Any]) -> Object | None:
        found = [each for each in store.sweeps.values() if each.name == given["sweepName"]]
        return sweeps.sweep_object(store, found[0]) if found else None

    created_at = store.projects[entity, project]
    all_sweeps = [each for each in store.sweeps.values() if (each.entity, each.project) == (entity, project)]
    return {
        "__typename": "Project",
        "id": f"{entity}/{project}",
        "internalId": "1",
        "name": project,
        "entityName": entity,
        "entity": {"id": "e", "name": entity},
        "createdAt": created_at,
        "isBenchmark": False,
        "readOnly": False,
        "access": "PRIVATE",
        "description": None,
        "views": "{}",
        "user": viewer(),
        "run": run,
        "bucket": run,
        "runs": runs,
        "runCount": lambda given: len(selected_runs(store, entity, project, given)),
        "allViews": views,
        "artifact": artifact,
        "artifactType": lambda given: type_object(given["name"]),
        "artifactTypes": types,
        "artifactCollection": collection,
        "artifactCollections": lambda given: collections(None, given),
        "artifactCollectionMembership": lambda given: artifacts.membership(
            store, artifacts.find(store, entity, project, given["name"])
        ),
        "sweep": sweep,
        "totalSweeps": len(all_sweeps),
        "sweeps": lambda given: connection([sweeps.sweep_object(store, each) for each in all_sweeps], given),
    }


def view_id(store: Store) -> str:
    """Return a new id in W&B's format, because clients decode the id of a report from its URL."""
    return base64.b64encode(f"View:{store.new_id('')}".encode()).decode()


def view_object(view: View) -> Object:
    return {
        "__typename": "View",
        "id": view.id,
        "name": view.name,
        "type": view.type,
        "displayName": view.display_name,
        "description": view.description,
        "project": {"id": f"{view.entity}/{view.project}", "name": view.project, "entityName": view.entity},
        "spec": json.dumps(view.spec),
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
        "accessTokens": [],
    }


def mutations(store: Store) -> Object:
    """Return the functions of the mutations. Each gets the arguments of its field: `{"input": {...}}`."""

    def known_run(given: Mapping[str, Any]) -> Run:
        run = store.run(given.get("entityName") or ENTITY, given["projectName"], given["runName"])
        if run is None:
            raise RequestError(f"run {given['runName']} not found")
        return run

    def upsert_bucket(given: Mapping[str, Any]) -> Object:
        run, is_new = upsert_run(store, given)
        # A client that resumes has already asked for the number of lines. Any other client starts the history again.
        return {"bucket": {**run_object(store, run), "historyLineCount": 0}, "inserted": is_new}

    def create_run_files(given: Mapping[str, Any]) -> Object:
        run = known_run(given)
        folder = f"{store.host}/upload-run-file/{quote(run.id, safe='')}"
        urls = [{"name": name, "uploadUrl": f"{folder}/{quote(name, safe='')}"} for name in given["files"]]
        return {"runID": run.id, "uploadHeaders": [], "files": urls}

    def create_artifact(given: Mapping[str, Any]) -> Object:
        return {"artifact": artifacts.artifact_object(store, artifacts.create(store, given))}

    def commit_artifact(given: Mapping[str, Any]) -> Object:
        artifact = store.artifacts[given["artifactID"]]
        artifacts.commit(store, artifact)
        return {"artifact": artifacts.artifact_object(store, artifact)}

    def create_manifest(given: Mapping[str, Any]) -> Object:
        return {"artifactManifest": artifacts.manifest_object(store, store.artifacts[given["artifactID"]])}

    def update_manifest(given: Mapping[str, Any]) -> Object:
        artifact = store.artifacts[given["artifactManifestID"].removeprefix("manifest:")]
        return {"artifactManifest": artifacts.manifest_object(store, artifact)}

    def create_artifact_files(given: Mapping[str, Any]) -> Object:
        return {"files": connection(artifacts.upload_objects(store, given), {})}

    def use_artifact(given: Mapping[str, Any]) -> Object:
        artifact = store.artifacts[given["artifactID"]]
        artifacts.use(store, artifact, known_run(given))
        return {"artifact": artifacts.artifact_object(store, artifact)}

    def update_artifact(given: Mapping[str, Any]) -> Object:
        artifact = store.artifacts[given["artifactID"]]
        artifacts.update(store, artifact, given)
        return {"artifact": artifacts.artifact_object(store, artifact)}

    def add_aliases(given: Mapping[str, Any]) -> Object:
        artifacts.set_aliases(store, store.artifacts[given["artifactID"]], [each["alias"] for each in given["aliases"]])
        return {"success": True}

    def delete_aliases(given: Mapping[str, Any]) -> Object:
        artifact = store.artifacts[given["artifactID"]]
        artifact.aliases = [
            each for each in artifact.aliases if each not in [gone["alias"] for gone in given["aliases"]]
        ]
        store.save(artifact)
        return {"success": True}

    def upsert_view(given: Mapping[str, Any]) -> Object:
        view = store.views.get(given.get("id") or "")
        is_new = view is None
        if view is None:
            entity, project = given.get("entityName") or ENTITY, given["projectName"]
            store.add_project(entity, project)
            view = View(view_id(store), entity, project, given["name"], given["type"], "", "", {})
            store.views[view.id] = view
        view.display_name = given.get("displayName", view.display_name)
        view.description = given.get("description", view.description)
        view.spec, view.num_saves, view.updated_at = json.loads(given["spec"]), view.num_saves + 1, now()
        store.save(view)
        return {"view": view_object(view), "inserted": is_new}

    def delete_view(given: Mapping[str, Any]) -> Object:
        store.views.pop(given["id"])
        return {"success": True, "pendingDrafts": []}

    def upsert_project(given: Mapping[str, Any]) -> Object:
        entity, name = given.get("entityName") or given.get("entity_name") or ENTITY, given["name"]
        store.add_project(entity, name)
        found = project_object(store, entity, name)
        return {"project": found, "model": found, "inserted": True}

    def alert(given: Mapping[str, Any]) -> Object:
        run = known_run(given)
        run.alerts.append({key: given.get(key) for key in ("title", "text", "severity", "waitDuration")})
        store.save(run)
        return {"success": True}

    def stop_run(given: Mapping[str, Any]) -> Object:
        run = store.runs[given["id"]]
        run.is_stop_requested = True
        store.save(run)
        return {"success": True}

    def delete_run(given: Mapping[str, Any]) -> Object:
        store.runs.pop(given["id"])
        return {"clientMutationId": None}

    def upsert_sweep(given: Mapping[str, Any]) -> Object:
        sweep = sweeps.upsert(store, given)
        return {"sweep": sweeps.sweep_object(store, sweep), "configValidationWarnings": []}

    def create_agent(given: Mapping[str, Any]) -> Object:
        return {"agent": {"id": sweeps.register_agent(store, given)}}

    def agent_heartbeat(given: Mapping[str, Any]) -> Object:
        return {"agent": {"id": given["id"]}, "commands": json.dumps(sweeps.heartbeat(store, given))}

    functions = {
        "upsertBucket": upsert_bucket,
        "createRunFiles": create_run_files,
        "markRunFilesUploaded": lambda _: {"success": True},
        "createArtifact": create_artifact,
        "commitArtifact": commit_artifact,
        "createArtifactManifest": create_manifest,
        "updateArtifactManifest": update_manifest,
        "createArtifactFiles": create_artifact_files,
        "useArtifact": use_artifact,
        "updateArtifact": update_artifact,
        "addAliases": add_aliases,
        "deleteAliases": delete_aliases,
        "upsertView": upsert_view,
        "deleteView": delete_view,
        "upsertModel": upsert_project,
        "notifyScriptableRunAlert": alert,
        "stopRun": stop_run,
        "deleteRun": delete_run,
        "upsertSweep": upsert_sweep,
        "createAgent": create_agent,
        "agentHeartbeat": agent_heartbeat,
    }
    return {name: (lambda given, function=function: function(given["input"])) for name, function in functions.items()}
