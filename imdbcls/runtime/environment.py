"""Describe the parts of the machine and its settings that can change the last bits of a result."""

import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

NOT_RECORDED = "not recorded"
FEATURE_CACHE = "feature_cache"  # the field of a run that evaluated documents from a cache of rounded features
# Constants of MKL's conditional numerical reproducibility (CNR) mode, from mkl_types.h.
_ALL_OF_CBWR = -1
_CBWR_STRICT = 0x10000
_CBWR_BRANCHES = {1: "off", 2: "auto", 3: "compatible", 10: "avx2", 12: "avx512"}
# Environment variables that set the instructions, the number of threads and the precision of PyTorch's libraries.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
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
CUDA_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG",)  # `process.fix_sums` sets it on every machine


def machine_environment(device: str) -> dict[str, str]:
    """Return the fields of a run's environment that describe this machine. `device` is a device type, such as `cpu`."""
    found = {}
    if device == "cuda":
        found["cuda"] = f"{torch.version.cuda or torch.version.hip}, cuDNN {torch.backends.cudnn.version()}"
    names = [*VARIABLES, *(CUDA_VARIABLES if device == "cuda" else ())]
    set_variables = [f"{name}={os.environ[name]}" for name in sorted(names) if name in os.environ]
    return {
        **found,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl_mode": mkl_mode(),
        "onednn": "on" if torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled() else "off",
        "float32_products": torch.get_float32_matmul_precision(),
        "variables": ", ".join(set_variables) or "none",
    }


def mkl_mode() -> str:
    """Return the mode of MKL for reproducible results (conditional numerical reproducibility), such as `auto, strict`.

    The mode is read from MKL and not from `MKL_CBWR`, because MKL ignores the variable after its first matrix product.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        mode = ctypes.CDLL(str(library)).mkl_serv_cbwr_get(_ALL_OF_CBWR)
    except (OSError, AttributeError):  # PyTorch is built without MKL, or does not export this function
        return "unknown"
    branch = _CBWR_BRANCHES.get(mode & ~_CBWR_STRICT, f"branch {mode & ~_CBWR_STRICT}")
    return f"{branch}, strict" if mode & _CBWR_STRICT else branch


def processor() -> str:
    """Return the CPU model with its family and stepping. Numerical libraries choose their code by CPU model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(line.partition(":")[::2] for line in lines)
    known = {name.strip(): value.strip() for name, value in entries.items()}
    numbers = "/".join(known.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{known.get('model name') or platform.machine()} ({numbers})"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the changed fields as `name before → now`. A field missing on one side has the value `NOT_RECORDED`."""
    names = [*now, *(name for name in before if name not in now)]
    values = ((name, before.get(name, NOT_RECORDED), now.get(name, NOT_RECORDED)) for name in names)
    return [f"{name} {old} → {new}" for name, old, new in values if old != new]
