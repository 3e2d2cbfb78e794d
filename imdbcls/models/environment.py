"""What a run computes on: all that can change the last bits of its results, besides its configuration and data."""

import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from imdbcls.kernels import PYTORCH, compiler_version, numeric_path
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.device import Hardware

NOT_RECORDED = "not recorded"
# MKL's conditional numerical reproducibility, as in mkl_types.h.
_ALL_OF_CBWR = -1
_CBWR_STRICT = 0x10000
_CBWR_BRANCHES = {1: "off", 2: "auto", 3: "compatible", 10: "avx2", 12: "avx512"}
# Of PyTorch's libraries: which instructions, how many threads and which precision they use.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "KMP_AFFINITY",
    "MKL_CBWR",
    "MKL_DOMAIN_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def environment_of(hardware: Hardware, trained: Classifier | None, scored: Classifier) -> dict[str, str]:
    """Return the environment by name. `kernels` and `scoring_kernels` are what really computes: see `path_of`.

    `trained` is None where nothing is trained. The CPU kernels are loaded, and compiled if need be.
    """
    found = {"hardware": hardware.describe()}
    if trained is not None:
        found["kernels"] = path_of(hardware, trained, training=True)
    found["scoring_kernels"] = path_of(hardware, scored, training=False)
    if {found.get("kernels", PYTORCH), found["scoring_kernels"]} != {PYTORCH}:
        found["compiler"] = compiler_version() or "unknown"
    if hardware.device.type == "cuda":
        found["cuda"] = f"{torch.version.cuda or torch.version.hip}, cuDNN {torch.backends.cudnn.version()}"
    set_variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return {
        **found,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl_mode": mkl_mode(),
        "onednn": "on" if torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled() else "off",
        "float32_products": torch.get_float32_matmul_precision(),
        "variables": ", ".join(set_variables) or "none",
    }


def path_of(hardware: Hardware, model: Classifier, training: bool) -> str:
    """Return the name of the code that computes a model's numbers (`kernels.numeric_path`)."""
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    return numeric_path(model.encoder, model.head, device=hardware.device.type, dtype=dtype, training=training)


def mkl_mode() -> str:
    """Return the mode that MKL computes in, such as `auto, strict`: `MKL_CBWR` counts only before its first product."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        mode = ctypes.CDLL(str(library)).mkl_serv_cbwr_get(_ALL_OF_CBWR)
    except (OSError, AttributeError):  # PyTorch without MKL, or with one that does not show it
        return "unknown"
    branch = _CBWR_BRANCHES.get(mode & ~_CBWR_STRICT, f"branch {mode & ~_CBWR_STRICT}")
    return f"{branch}, strict" if mode & _CBWR_STRICT else branch


def processor() -> str:
    """The CPU's model, by which libraries choose their code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(line.partition(":")[::2] for line in lines)
    known = {name.strip(): value.strip() for name, value in entries.items()}
    numbers = "/".join(known.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{known.get('model name') or platform.machine()} ({numbers})"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, as `name before → now`; what an older version did not record is named as such."""
    names = [*now, *(name for name in before if name not in now)]
    values = ((name, before.get(name, NOT_RECORDED), now.get(name, NOT_RECORDED)) for name in names)
    return [f"{name} {old} → {new}" for name, old, new in values if old != new]
