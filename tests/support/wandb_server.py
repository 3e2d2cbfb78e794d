"""A minimal W&B server that tests can kill or silence. It accepts runs and stores the records that they send."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Handle the few GraphQL operations needed to open a run. Any other request gets an error or an empty object."""

    protocol_version = "HTTP/1.1"
    points: Path  # file for the received history, one JSON object per line
    resumed_step: int | None  # the last step of the run that the server claims to have
    deaf: bool  # whether the server answers only GET requests

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.deaf:
            time.sleep(1000)
        if self.path.endswith("/file_stream"):
            history = (json.loads(body).get("files") or {}).get("wandb-history.jsonl", {"content": []})
            with self.points.open("a") as file:
                file.writelines(line + "\n" for line in history["content"])
            self._answer({})
        elif self.path == "/graphql":
            request = json.loads(body)
            self._answer(self._graphql(request["query"], request.get("variables") or {}))
        else:
            self._answer({}, 404)

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            project = {"id": "p", "name": "imdbcls", "entity": {"id": "e", "name": "someone"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables["name"], "project": project}
            bucket |= {"description": "", "config": "{}", "sweepName": None, "historyLineCount": 0}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": self.resumed_step is None}}}
        if "RunResumeStatus" in query:
            return {"data": {"model": None if self.resumed_step is None else {"bucket": self._known_run(variables)}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": self._upload_url(name)} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "viewer" in query:
            viewer = {"id": "v", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        return {"data": None, "errors": [{"message": "not in this server"}]}

    def _known_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        tail = json.dumps([json.dumps({"_step": self.resumed_step, "_runtime": 1})])
        counts = {"historyLineCount": self.resumed_step, "eventsLineCount": 0, "logLineCount": 0}
        text = {
            "historyTail": tail,
            "eventsTail": "[]",
            "summaryMetrics": "{}",
            "config": "{}",
            "wandbConfig": '{"t": 1}',
        }
        return {"id": "b", "name": variables["name"], "projectId": "p", "tags": []} | counts | text

    def _upload_url(self, name: str) -> str:
        return f"http://{self.headers['Host']}/upload/{name}"

    def _answer(self, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Handler.points = Path(sys.argv[1])
    Handler.resumed_step = json.loads(sys.argv[2])
    Handler.deaf = json.loads(sys.argv[3])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
