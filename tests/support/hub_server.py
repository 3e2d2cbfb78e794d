"""A local Hugging Face hub for the real client libraries: it serves folders as the files of models and datasets."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "1" * 40  # the only commit of every repository


@contextlib.contextmanager
def hub(repositories: Mapping[str, Path], uploads: "Uploads | None" = None) -> Iterator[str]:
    """Serve folders and yield the hub's URL, the value for `HF_ENDPOINT`.

    The keys of `repositories` have the form `models/<owner>/<name>` or `datasets/<owner>/<name>`.
    """
    handler = type("HubHandler", (Handler,), {"repositories": dict(repositories), "uploads": uploads})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answer requests for `/` and for a repository's description, list of files and files, and accept uploads."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, Path]
    uploads: "Uploads | None" = None

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.uploads is not None
        self.uploads.objects[self.path.rpartition("/")[2]] = body
        self._answer(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.uploads is not None:
            answer = self.uploads.answer(self.path, body, self.headers.get("Authorization"), self.headers["Host"])
            return self._answer(401, b"") if answer is None else self._answer_json(answer)
        found = self._repository(unquote(urlsplit(self.path).path).removeprefix("/api/"))
        if found is None or not found[1].startswith("paths-info/"):
            return self._answer(404, b"")
        paths = json.loads(body)["paths"]
        self._answer_json([entry(found[0] / path, path) for path in paths if (found[0] / path).exists()])

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._answer(200, b"a hub")
        if path.startswith("/api/"):
            return self._describe(path.removeprefix("/api/"))
        found = self._repository(path[1:] if path.startswith("/datasets/") else f"models{path}")
        if found is None or not found[1].startswith("resolve/"):
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        folder, rest = found
        file = folder / rest.split("/", 2)[2]
        if not file.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        content = file.read_bytes()
        self._answer(200, content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": REVISION})

    def _describe(self, path: str) -> None:
        found = self._repository(path)
        if found is None:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        folder, rest = found
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        if not rest or rest.startswith("revision/"):
            name = path.split("/", 1)[1].removesuffix(f"/{rest}")
            siblings = [{"rfilename": file} for file in files]
            facts = {"id": name, "sha": REVISION, "private": False, "gated": False, "disabled": False, "tags": []}
            return self._answer_json({**facts, "siblings": siblings, "downloads": 0, "likes": 0})
        if rest.startswith("tree/"):
            top = folder.joinpath(*rest.split("/")[2:])
            found_paths = sorted(top.rglob("*") if "recursive=true" in self.path.lower() else top.glob("*"))
            return self._answer_json([entry(each, str(each.relative_to(folder))) for each in found_paths])
        self._answer(404, b"")

    def _repository(self, path: str) -> tuple[Path, str] | None:
        """Split a path such as `models/owner/name/rest` into the folder of the repository and `rest`."""
        kind, owner, name, *rest = [*path.split("/"), "", ""][: max(3, path.count("/") + 1)]
        folder = self.repositories.get(f"{kind}/{owner}/{name}")
        return None if folder is None else (folder, "/".join(rest))

    def _answer_json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@dataclass
class Uploads:
    """The uploads that a hub has received. The hub accepts uploads with the token `secret`."""

    created: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by SHA-256
    files: dict[str, bytes] = field(default_factory=dict)  # the committed files by path
    commits: list[str] = field(default_factory=list)  # the summaries of the commits

    def answer(self, path: str, body: bytes, authorization: str | None, host: str) -> Any:
        """Return the answer to a POST request, or None if the request is not authorized."""
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if authorization != "Bearer secret":
            return None
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"http://{host}/owner/name", "id": "owner/name"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": name, "uploadMode": modes[name.endswith(".safetensors")], "shouldIgnore": False, "oid": None}
                for name in names
            ]
            return {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            return {
                "transfer": "basic",
                "objects": [
                    {**each, "actions": {"upload": {"href": f"http://{host}/objects/{each['oid']}"}}} for each in wanted
                ],
            }
        assert "/commit/" in path, path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
        return {"commitUrl": f"http://{host}/owner/name/commit/{REVISION}", "commitOid": REVISION}


def entry(path: Path, name: str) -> dict[str, Any]:
    """Return the description of a file or folder, as the hub lists it."""
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": REVISION}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": etag(content)}


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
