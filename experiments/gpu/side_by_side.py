"""Train several MiniLM runs on one GPU at the same time: `python experiments/gpu/side_by_side.py`.

The same sweep is trained with `jobs=1`, `jobs=4` and `jobs=2`, each time in a new folder, until the time budget is used
up. A small model does not fill a large GPU, so parallel runs may take less time in total. The measured seconds include
starting the processes. The results are written after each sweep. `--dry-run` tests the script with a tiny encoder on
the CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import write_documents

from imdbcls.runs.files import json_text

GPU = ("backbone=minilm", "max_length=512", "epochs=2", "device=cuda")
DRY_RUN = ("backbone=tiny", "max_length=48", "epochs=1", "device=cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 4, 2], help="values of `jobs`, in this order")
    parser.add_argument("--seeds", type=int, default=4, help="runs in each sweep (default: 4)")
    parser.add_argument("--documents", type=int, default=4096, help="training documents of each run (default: 4096)")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds for all sweeps (default: 200)")
    parser.add_argument("--output", type=Path, default=Path("gpu-side-by-side.json"))
    parser.add_argument("--dry-run", action="store_true", help="two runs of a tiny encoder on the CPU")
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.jobs, options.seeds, options.documents = [2], 2, 12
    started = time.monotonic()
    results: dict[str, Any] = {"format_version": 1, "dry_run": options.dry_run, "sweeps": []}
    with tempfile.TemporaryDirectory() as folder:
        documents = write_documents(Path(folder), options.documents, scale=0.1 if options.dry_run else 1.0)
        settings = [*(DRY_RUN if options.dry_run else GPU), *documents, f"data.cache_dir={folder}/cache"]
        for jobs in options.jobs:
            left = options.budget - (time.monotonic() - started)
            if left < 10:
                print("The budget is used up.")
                break
            results["sweeps"].append(sweep(jobs, options.seeds, settings, Path(folder), left))
            options.output.write_text(json_text(results, indent=1) + "\n", encoding="utf-8")
            print(json_text(results["sweeps"][-1]))


def sweep(jobs: int, seeds: int, settings: Sequence[str], folder: Path, timeout: float) -> dict[str, Any]:
    """Train a run for each seed, `jobs` at a time. Return the total seconds and each run's results, or an error."""
    study = f"jobs{jobs}"
    command = [
        *(sys.executable, "-m", "imdbcls.train", "--multirun", *settings, f"jobs={jobs}", f"study={study}"),
        *(f"seed={','.join(map(str, range(seeds)))}", f"runs_dir={folder}/runs", "tracker=none", "progress=none"),
    ]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"jobs": jobs, "error": f"not finished within {timeout:.0f} s"}
    seconds = time.monotonic() - started
    if done.returncode != 0:
        return {"jobs": jobs, "error": done.stderr[-2000:]}
    found = [json.loads(path.read_text()) for path in sorted((folder / "runs" / study).glob("*/result.json"))]
    return {
        "jobs": jobs,
        "seconds": seconds,
        "seconds_per_run": seconds / len(found),
        "documents_per_second": [result["documents_per_second"] for result in found],
        "peak_memory_mb": [result["peak_memory_mb"] for result in found],
        "test_losses": [result["test/loss"] for result in found],
        "hardware": found[0]["environment"]["hardware"],
    }


if __name__ == "__main__":
    main()
