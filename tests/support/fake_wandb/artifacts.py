"""Artifacts: versions, manifests, files, aliases and lineage."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from support.fake_wandb.graphql_executor import Object, connection
from support.fake_wandb.store import ENTITY, Artifact, Run, Store


def create(store: Store, given: Mapping[str, Any]) -> Artifact:
    """Return a new pending version, or the committed version of the same collection with the same digest."""
    entity, project = given.get("entityName") or ENTITY, given["projectName"]  # `wandb sync` names no entity
    store.add_project(entity, project)
    aliases = [each["alias"] for each in given.get("aliases") or []]
    collection = given.get("artifactCollectionName") or given["artifactCollectionNames"][0]
    run = store.run(entity, project, given.get("runName") or "")
    for known in versions(store, entity, project, collection):
        if known.digest == given["digest"]:
            known.client_id = given.get("clientID") or known.client_id
            set_aliases(store, known, aliases)
            return known
    artifact = Artifact(
        id=store.new_id("artifact"),
        entity=entity,
        project=project,
        type=given["artifactTypeName"],
        collection=collection,
        digest=given["digest"],
        metadata=json.loads(given.get("metadata") or "{}"),
        description=given.get("description"),
        client_id=given.get("clientID"),
        sequence_client_id=given.get("sequenceClientID"),
        created_by=run.id if run else None,
        wanted_aliases=aliases,
        tags=[each["tagName"] for each in given.get("tags") or []],
    )
    store.artifacts[artifact.id] = artifact
    store.save(artifact)
    return artifact


def commit(store: Store, artifact: Artifact) -> None:
    if artifact.state == "COMMITTED":
        return
    artifact.version = len(versions(store, artifact.entity, artifact.project, artifact.collection))
    artifact.state = "COMMITTED"
    set_aliases(store, artifact, [*artifact.wanted_aliases, "latest"])


def set_aliases(store: Store, artifact: Artifact, aliases: list[str]) -> None:
    """Add aliases to a version, and remove them from the other versions of its collection."""
    for other in versions(store, artifact.entity, artifact.project, artifact.collection):
        if other is not artifact and set(other.aliases) & set(aliases):
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
            store.save(other)
    artifact.aliases = list(dict.fromkeys([*artifact.aliases, *aliases]))
    store.save(artifact)


def use(store: Store, artifact: Artifact, run: Run) -> None:
    if run.id not in artifact.used_by:
        artifact.used_by.append(run.id)
    if artifact.id not in run.used_artifacts:
        run.used_artifacts.append(artifact.id)
    store.save(artifact, run)


def update(store: Store, artifact: Artifact, given: Mapping[str, Any]) -> None:
    if given.get("metadata") is not None:
        artifact.metadata = json.loads(given["metadata"])
    if given.get("description") is not None:
        artifact.description = given["description"]
    if given.get("aliases") is not None:
        artifact.aliases = []
        set_aliases(store, artifact, [each["alias"] for each in given["aliases"]])
    store.save(artifact)


def versions(store: Store, entity: str, project: str, collection: str) -> list[Artifact]:
    found = [
        each
        for each in store.artifacts.values()
        if (each.entity, each.project, each.collection) == (entity, project, collection) and each.state == "COMMITTED"
    ]
    return sorted(found, key=lambda each: each.version)


def find(store: Store, entity: str, project: str, name: str) -> Artifact | None:
    """Return the version `collection:alias`, `collection:v3`, `collection:digest` or `collection` (the latest)."""
    collection, _, alias = name.partition(":")
    for each in versions(store, entity, project, collection):
        if (alias or "latest") in each.aliases or alias in (f"v{each.version}", each.digest):
            return each
    return None


def by_client_id(store: Store, client_id: str) -> str | None:
    for each in store.artifacts.values():
        if client_id == each.client_id:
            return each.id
        if client_id == each.sequence_client_id:
            return f"sequence:{each.entity}/{each.project}/{each.collection}"
    return None


def project_info(artifact: Artifact) -> Object:
    entity = {"id": "e", "name": artifact.entity}
    return {
        "id": f"{artifact.entity}/{artifact.project}",
        "internalId": "1",
        "name": artifact.project,
        "entity": entity,
    }


def collection_object(store: Store, artifact: Artifact) -> Object:
    """Return the collection (the type `ArtifactSequence`) of a version."""
    committed = versions(store, artifact.entity, artifact.project, artifact.collection)
    aliases = [alias_object(store, each, alias) for each in committed for alias in each.aliases]
    latest = next((each for each in committed if "latest" in each.aliases), None)
    return {
        "__typename": "ArtifactSequence",
        "id": f"sequence:{artifact.entity}/{artifact.project}/{artifact.collection}",
        "name": artifact.collection,
        "description": None,
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "state": "READY",
        "project": project_info(artifact),
        "defaultArtifactType": {"name": artifact.type},
        "digestAlgorithm": "MANIFEST_MD5",
        "tags": {"edges": []},
        "latestArtifact": {"id": latest.id, "versionIndex": latest.version} if latest else None,
        "aliases": lambda given: connection(aliases, given),
        "artifacts": lambda given: versions_page(store, committed, given),
        "artifactMembership": lambda given: membership(
            store, find(store, artifact.entity, artifact.project, f"{artifact.collection}:{given['aliasName']}")
        ),
    }


def versions_page(store: Store, committed: list[Artifact], given: Mapping[str, Any]) -> Object:
    newest_first = [artifact_object(store, each) for each in reversed(committed)]
    page = connection(newest_first, given)
    for edge in page["edges"]:
        edge["version"] = f"v{edge['node']['versionIndex']}"
    return page


def alias_object(store: Store, artifact: Artifact, alias: str) -> Object:
    names = {"__typename": "ArtifactSequence", "name": artifact.collection, "project": project_info(artifact)}
    return {"__typename": "ArtifactAlias", "id": f"{artifact.id}:{alias}", "alias": alias, "artifactCollection": names}


def membership(store: Store, artifact: Artifact | None) -> Object | None:
    if artifact is None:
        return None
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": f"membership:{artifact.id}",
        "versionIndex": artifact.version,
        "createdAt": artifact.created_at,
        "aliases": [alias_object(store, artifact, alias) for alias in artifact.aliases],
        "artifactCollection": collection_object(store, artifact),
        "artifact": artifact_object(store, artifact),
        "files": lambda given: connection(file_objects(store, artifact, given.get("names")), given),
    }


def file_objects(store: Store, artifact: Artifact, names: list[str] | None = None) -> list[Object]:
    found = []
    for path, entry in artifact.contents.items():
        if (names is None or path in names) and path in artifact.files:
            url = f"{store.host}/blobs/{artifact.files[path]}"
            sums = {"digest": entry["digest"], "md5": entry["digest"], "sizeBytes": entry.get("size", 0)}
            kinds = {"__typename": "File", "mimetype": None, "updatedAt": artifact.created_at, "storagePath": path}
            names_of = {"id": f"{artifact.id}/{path}", "name": path, "displayName": path}
            found.append(names_of | sums | kinds | {"url": url, "directUrl": url})
    return found


def requested_files(store: Store, artifact: Artifact, entries: list[Mapping[str, Any]]) -> list[Object]:
    """Return the download URLs of manifest entries. The client names each entry by its path."""
    return file_objects(store, artifact, [each.get("name") or each["path"] for each in entries])


def artifact_object(store: Store, artifact: Artifact) -> Object:
    """Return an artifact version as an `Artifact` object of the API."""
    run = store.runs.get(artifact.created_by or "")
    users = [store.runs[each] for each in artifact.used_by]
    manifest_url = f"{store.host}/manifests/{artifact.id}"
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": lambda _: collection_object(store, artifact),
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [{"__typename": "Tag", "id": tag, "name": tag} for tag in artifact.tags],
        "historyStep": None,
        "state": artifact.state,
        "size": sum(entry.get("size", 0) for entry in artifact.contents.values()),
        "digest": artifact.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": "0" * 20,
        "fileCount": len(artifact.contents),
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "aliases": [alias_object(store, artifact, alias) for alias in artifact.aliases],
        "currentManifest": {"id": f"manifest:{artifact.id}", "file": {"id": "file", "directUrl": manifest_url}},
        "createdBy": run and run_info(run),
        "usedBy": lambda given: connection([run_info(each) for each in users], given),
        "artifactMemberships": lambda given: connection([membership(store, artifact)], given),
        "files": lambda given: connection(file_objects(store, artifact, given.get("names")), given),
        "filesByManifestEntries": lambda given: connection(requested_files(store, artifact, given["entries"]), given),
    }


def run_info(run: Run) -> Object:
    project = {
        "id": f"{run.entity}/{run.project}",
        "internalId": "1",
        "name": run.project,
        "entity": {"name": run.entity},
    }
    return {"__typename": "Run", "id": run.id, "name": run.name, "project": project}


def manifest_object(store: Store, artifact: Artifact) -> Object:
    url = f"{store.host}/upload-manifest/{artifact.id}"
    file = {"id": "file", "uploadUrl": url, "uploadHeaders": []}
    return {"__typename": "ArtifactManifest", "id": f"manifest:{artifact.id}", "file": file}


def upload_objects(store: Store, given: Mapping[str, Any]) -> list[Object]:
    """Return the URLs to which the client uploads files."""
    found = []
    for file in given["artifactFiles"]:
        artifact = store.artifacts[file["artifactID"]]
        url = f"{store.host}/upload-artifact/{artifact.id}/{quote(file['name'], safe='')}"
        found.append(
            {
                "id": f"{artifact.id}/{file['name']}",
                "name": file["name"],
                "storagePath": f"wandb_artifacts/{artifact.id}/{re.sub(r'[^0-9a-zA-Z]', '', file.get('md5') or '')}",
                "uploadUrl": url,
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": artifact.id},
            }
        )
    return found
