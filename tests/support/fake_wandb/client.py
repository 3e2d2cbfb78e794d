"""Start a fake W&B server in its own process, break it, and read what it received."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import Request, urlopen

from support.fake_wandb.store import Artifact, Run, Sweep, View
from support.limits import HANG_SECONDS
from support.runs import ROOT, isolated

KEY = "0123456789" * 4  # an API key in the format that the client checks
# Overrides for commands that must not continue offline because the machine is busy.
PATIENT = tuple(f"tracker.wandb.{key}={HANG_SECONDS}" for key in ("connect_seconds", "finish_seconds"))
Kind = TypeVar("Kind", Run, Artifact, Sweep, View)


class FakeWandb:
    """A fake W&B server. It keeps its data in `folder`, where tests can read the data even after the server is killed.

    Options: With `is_deaf`, the server answers only GET requests. With `known_step`, the server claims that it already
    has steps 1 to `known_step` of every run.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "support.fake_wandb", str(folder), json.dumps(options)]
        self.process = subprocess.Popen(
            command, cwd=ROOT / "tests", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which a command logs to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def freeze(self) -> None:
        """Stop answering, but keep connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, run: Run) -> None:
        """Ask the client to stop a run, as `early_terminate` and the button on the website do."""
        query = "mutation StopRun($id: ID!) { stopRun(input: {id: $id}) { success } }"
        body = json.dumps({"query": query, "variables": {"id": run.id}}).encode()
        with urlopen(Request(f"{self.url}/graphql", body), timeout=HANG_SECONDS) as answer:
            assert json.load(answer)["data"]["stopRun"]["success"]

    def runs(self, job_type: str | None = None) -> list[Run]:
        """Return all runs, or only the runs of one type, in the order of their creation."""
        return [run for run in self._all(Run) if job_type in (None, run.job_type)]

    def run(self, name: str) -> Run:
        """Return the run with a display name or an id."""
        (run,) = (run for run in self.runs() if name in (run.display_name, run.name))
        return run

    def artifacts(self, type: str | None = None) -> list[Artifact]:
        return [each for each in self._all(Artifact) if each.state == "COMMITTED" and type in (None, each.type)]

    def sweeps(self) -> list[Sweep]:
        return self._all(Sweep)

    def workspaces(self) -> list[View]:
        return [view for view in self._all(View) if view.type == "project-view"]

    def reports(self) -> list[View]:
        return [view for view in self._all(View) if view.type.startswith("runs")]

    def steps(self, run: Run | None = None) -> list[int]:
        """Return the steps in the history of `run`. Without `run`, there must be only one run."""
        if run is None:
            (run,) = self.runs()
        return [point["step"] for point in run.points()]

    def file_of(self, run: Run, name: str) -> Path:
        """Return the path of an uploaded file of a run, such as `media/table/view/test_mistakes_….table.json`."""
        return self.folder / "files" / quote(run.id, safe="") / name

    def file_in(self, artifact: Artifact, name: str) -> Path:
        """Return the path of an uploaded file of an artifact."""
        return self.folder / "blobs" / artifact.files[name]

    def requests(self) -> list[dict[str, Any]]:
        """Return all GraphQL requests: `query` and `variables`, and after some of them `error` or `unknown_fields`."""
        path = self.folder / "requests.jsonl"
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]  # the last line may be incomplete
        return [json.loads(line) for line in lines]

    def run_client(self, arguments: Sequence[str], folder: Path) -> None:
        """Run Python with these arguments in a folder, with this server as the only W&B setting of the user."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=isolated(folder / "home") | self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    def errors(self) -> list[str]:
        return [each["error"] for each in self.requests() if "error" in each]

    def _all(self, kind: type[Kind]) -> list[Kind]:
        paths = (self.folder / f"{kind.__name__.lower()}s").glob("*.json")
        return sorted((kind(**json.loads(path.read_text())) for path in paths), key=lambda each: each.created_at)
