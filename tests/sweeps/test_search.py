"""Sweepers that optimise: each run's value, a failed run, a signal, and Hydra's own Optuna sweeper."""

import json
import os
import re
import shlex
import signal
import site
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.faults import FAULTY, faulty
from support.limits import HANG_SECONDS
from support.processes import EVERY_STEP, TINY, Command, saved_step, share_kernels, start, wait_before_step, wait_for
from support.runs import PERSONAL, ROOT

from imdbcls.errors import UserError
from imdbcls.sweeps.search import objective_of

PLUGIN = "hydra-optuna-sweeper==1.3.0"
RUN = (*TINY, "epochs=1")
SMALL = [each for each in TINY if not each.startswith(("lr=", "data.train_limit="))]
(DOCUMENTED,) = re.findall(
    r"^python -m imdbcls\.train (--multirun hydra/sweeper=optuna(?:.*\\\n)*.*)",
    (ROOT / "docs/pages/runs.md").read_text(),
    re.MULTILINE,
)
OPTUNA = (*shlex.split(DOCUMENTED.replace("\\\n", " ")), "hydra.sweeper.n_trials=4", "lr=tag(log,interval(1e-4,1e-2))")
# A sweeper that runs one job after the other. It records the value or the error of a job before the next job starts.
RECORDING = """
import json
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


@dataclass
class Settings:
    _target_: str = "hydra_plugins.recording.RecordingSweeper"
    params: dict | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="recording", node=Settings, provider="recording")


class RecordingSweeper(Sweeper):
    def __init__(self, params):
        pass

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        fixed = [each for each in arguments if not each.startswith("head.dropout=")]
        values = next(each for each in arguments if each.startswith("head.dropout=")).partition("=")[2].split(",")
        found = []
        for index, value in enumerate(values):
            (job,) = self.launcher.launch([(*fixed, f"head.dropout={value}")], initial_job_idx=index)
            try:
                found.append(job.return_value)
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")
            Path("values.json").write_text(json.dumps(found))
"""


def search(folder: Path, *arguments: str, environment: dict[str, str] | None = None, **others: Any) -> Command:
    """Start a search with the recording sweeper, which tries three values of `head.dropout`."""
    plugins = folder / "hydra_plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "recording.py").write_text(RECORDING)
    path = ":".join(filter(None, (str(folder), (environment or {}).get("PYTHONPATH"))))
    options = ("--multirun", "hydra/sweeper=recording", "head.dropout=0.1,0.2,0.3")
    return start(folder, *RUN, *options, *arguments, environment={**(environment or {}), "PYTHONPATH": path}, **others)


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the finished runs in the order in which they finished."""
    paths = sorted(folder.glob("runs/*/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [result for path in paths if (result := json.loads(path.read_text()))["status"] == "done"]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_sweeper_gets_the_best_validation_score_of_each_run(metric: str, tmp_path: Path) -> None:
    for _ in range(2):  # the second search finds finished runs, and trains nothing
        command = search(tmp_path, f"metric={metric}")
        assert command.wait() == 0, command.output
        values = json.loads((tmp_path / "values.json").read_text())
        assert values == [result[f"val/{metric}"] for result in results(tmp_path)] and len(values) == 3
        (tmp_path / "values.json").unlink()
    assert command.output.count("is already done") == 3


def test_sweeper_gets_an_error_for_a_failed_run_and_continues(tmp_path: Path) -> None:
    fault = faulty("raise", at=3)
    command = search(tmp_path, *FAULTY, "+head.only_dropout=0.2", environment=fault)
    assert command.wait() == 1
    first, second, third = json.loads((tmp_path / "values.json").read_text())
    assert [first, third] == [result["val/accuracy"] for result in results(tmp_path)]
    assert second.startswith("UserError: ") and "has no value to optimise (failed): ZeroDivisionError" in second
    assert "1 of 3 runs are not done. If the sampler has a seed" in command.output


def test_signal_ends_a_search(tmp_path: Path) -> None:
    command = search(tmp_path, EVERY_STEP, prepare=partial(wait_before_step, 8))
    assert wait_for(lambda: saved_step(tmp_path) >= 3, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert not (tmp_path / "values.json").exists() and "Traceback" not in command.output
    assert "interrupted" in command.output and len(list(tmp_path.glob("runs/*/*"))) == 1


def test_objective_of_a_result_is_its_metric() -> None:
    result = {"name": "cls-s0", "metric": "loss", "val/accuracy": 0.75, "val/loss": 0.5, "val/auroc": None}
    assert objective_of(result) == 0.5 and objective_of({**result, "metric": "accuracy"}) == 0.75
    for undefined in (None, float("nan")):
        with pytest.raises(UserError, match="cls-s0 has no val/auroc to optimise"):
            objective_of({**result, "metric": "auroc", "val/auroc": undefined})


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the tests' packages, the plugin and the Optuna that the plugin needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    (packages,) = folder.glob("lib/*/site-packages")
    lines = [
        f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages()
    ]  # also runs their .pth files
    (packages / "tests.pth").write_text("".join(lines))
    command = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", PLUGIN]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return interpreter


def run_optuna(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
    share_kernels(folder / "cache")
    environment = {**kept, "HOME": str(folder), "IMDBCLS_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), "-m", "imdbcls.train", *SMALL, *OPTUNA, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)


@pytest.mark.slow
def test_hydras_optuna_sweeper_finds_the_best_run(python: Path, tmp_path: Path) -> None:
    for number in range(2):  # the seed of the sampler makes the second search propose the same runs
        done = run_optuna(python, tmp_path, "study=best")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("is already done") == 4 * number
        scores = {result["val/accuracy"]: result for result in results(tmp_path)}
        best = yaml.safe_load((tmp_path / "runs/best/optimization_results.yaml").read_text())
        assert len(results(tmp_path)) == 4 and len(scores) > 1, "equal scores would show nothing"
        assert best["best_value"] == max(scores) and f"Best value: {max(scores)}" in done.stderr
        assert best["best_params"]["head"] == scores[max(scores)]["head"]


@pytest.mark.slow
def test_hydras_optuna_sweeper_reports_mistakes_and_failures(python: Path, tmp_path: Path) -> None:
    done = run_optuna(
        python, tmp_path, "metric=loss", "hydra.sweeper.sampler._target_=os.system", "warmup=interval(0,7)"
    )
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    for mistake in ("hydra.sweeper.direction=maximize does not fit metric=loss", "os.system is refused", "warmup=7"):
        assert mistake in done.stderr
    done = run_optuna(python, tmp_path, "device=cuda")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "has no value to optimise (failed): device=cuda is not available" in done.stderr.splitlines()[-1]
