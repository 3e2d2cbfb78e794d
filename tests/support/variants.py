"""Copy a finished run with other weights or another result, so that the copy looks like another run of its study."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file

import imdbcls
from imdbcls.runs.untrusted import sha256


def variant(run: Path, folder: Path, number: int) -> Path:
    """Copy a run whose head has a layer `output`. Each `number` gives other weights and another temperature."""
    shutil.copytree(run, folder)
    best = folder / "checkpoints" / "best"
    weights = load_file(best / "model.safetensors")
    weights["head.output.bias"][0] += 0.05 * number
    save_file(weights, best / "model.safetensors")
    manifest = json.loads((best / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = sha256(best / "model.safetensors")
    (best / "manifest.json").write_text(json.dumps(manifest))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "temperature": 1.0 + number}))
    return folder


def change_result(run: Path, folder: Path, **values: object) -> Path:
    """Copy a run, with other values in its result."""
    shutil.copytree(run, folder)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, **values}))
    return folder


def in_float32(folder: Path) -> imdbcls.FinishedRun:
    """Load a run to classify in float32, as its exports do. On some processors, runs use bf16."""
    run = imdbcls.load_run(folder)
    return replace(run, config=run.config.with_changes(precision="fp32"))
