"""The HTTP side of the fake server: GraphQL, the file stream, uploads and downloads."""

import json
import sys
import tempfile
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.fake_wandb import artifacts, runs
from support.fake_wandb.graphql_executor import UNKNOWN_FIELDS, RequestError, execute
from support.fake_wandb.operations import roots
from support.fake_wandb.store import Run, Store


class Handler(BaseHTTPRequestHandler):
    """Handle requests. An unknown path gets the status 404, except in GET requests."""

    protocol_version = "HTTP/1.1"
    store: Store
    is_deaf: bool  # whether only GET requests are answered
    known_step: int | None  # the last step that the server claims to have of every run that a client opens

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self._parts()
        paths = {
            "run-files": lambda: self.store.run_file(self.store.runs[parts[1]], "/".join(parts[2:])),
            "blobs": lambda: self.store.blob(parts[1]),
            "artifactsV2": lambda: self.store.blob(parts[-2]),
            "manifests": lambda: self.store.folder / "manifests" / parts[1],
        }
        if parts[0] not in paths:
            return self._answer({})  # for example, the client checks whether the server is up
        path = paths[parts[0]]()
        self._send(path.read_bytes(), "application/octet-stream") if path.exists() else self._answer({}, 404)

    def do_PUT(self) -> None:
        parts, body = self._parts(), self._body()
        with self.store.lock:
            if parts[0] == "upload-run-file":
                self._save_run_file(self.store.runs[parts[1]], parts[2], body)
            elif parts[0] == "upload-manifest":
                self._save_manifest(self.store.artifacts[parts[1]], body)
            elif parts[0] == "upload-artifact":
                self._save_artifact_file(self.store.artifacts[parts[1]], parts[2], body)
            else:
                return self._answer({}, 404)
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.is_deaf:
            time.sleep(1000)
        parts = self._parts()
        if parts == ["graphql"]:
            request = json.loads(body)
            with self.store.lock:
                self._answer(self._graphql(request["query"], request.get("variables") or {}))
        elif parts[0] == "files" and parts[-1] == "file_stream":
            with self.store.lock:
                run = self.store.run(*parts[1:4])
                self._answer({}, 404) if run is None else self._answer(runs.receive(self.store, run, json.loads(body)))
        else:
            self._answer({}, 404)

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self._log({"query": query, "variables": variables})
        if (
            self.known_step is not None
            and "name" in variables
            and ("upsertBucket" in query or "RunResumeStatus" in query)
        ):
            self._claim_to_know(variables)
        if "RunResumeStatus" in query:
            runs.forget_stop(self.store, variables)
        try:
            answer = {"data": execute(query, variables, roots(self.store))}
        except Exception as error:
            text = str(error) if isinstance(error, RequestError) else traceback.format_exc()
            self._log({"error": text})
            answer = {"data": None, "errors": [{"message": text}]}
        if UNKNOWN_FIELDS:
            self._log({"unknown_fields": sorted(UNKNOWN_FIELDS)})
            UNKNOWN_FIELDS.clear()
        return answer

    def _claim_to_know(self, variables: dict[str, Any]) -> None:
        entity, project = variables.get("entity") or "someone", variables.get("project") or "uncategorized"
        if self.store.run(entity, project, variables["name"]) is not None:
            return
        self.store.add_project(entity, project)
        points = [{"_step": step, "_runtime": 1, "step": step} for step in range(1, self.known_step + 1)]
        run = Run(entity, project, variables["name"], history=[json.dumps(point) for point in points])
        run.config = {"_wandb": {"value": {"t": {"1": [1]}}}}
        self.store.runs[run.id] = run

    def _save_run_file(self, run: Run, name: str, body: bytes) -> None:
        path = self.store.run_file(run, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        if name not in run.files:
            run.files.append(name)
        self.store.save(run)

    def _save_manifest(self, artifact: artifacts.Artifact, body: bytes) -> None:
        path = self.store.folder / "manifests" / artifact.id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        artifact.contents = json.loads(body)["contents"]
        self.store.save(artifact)

    def _save_artifact_file(self, artifact: artifacts.Artifact, name: str, body: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self.store.folder, delete=False) as file:
            file.write(body)
        artifact.files[name] = self.store.add_blob(Path(file.name))
        self.store.save(artifact)

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.store.folder / "requests.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _answer(self, answer: dict[str, Any], status: int = 200) -> None:
        self._send(json.dumps(answer).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A server that reports no error if a client disconnects before it gets an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(folder: Path, *, port: int = 0, is_deaf: bool = False, known_step: int | None = None) -> Server:
    """Return a server that keeps its data in `folder`. Call its `serve_forever`."""
    store = Store(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"store": store, "is_deaf": is_deaf, "known_step": known_step}
    server = Server(("127.0.0.1", port), type("BoundHandler", (Handler,), settings))
    store.host = f"http://127.0.0.1:{server.server_port}"
    return server
