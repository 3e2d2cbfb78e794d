"""Accelerate encoders and heads on the CPU and on CUDA. The rest of the package imports only this module.

`accelerate` prepares a supported encoder (BERT, RoBERTa; on CUDA also ModernBERT) in place. `encode` runs any encoder
with the fastest implementation that applies. Values and gradients are the same as in transformers and PyTorch, up
to rounding. In training, the random dropout masks differ. The README.md in this folder is for maintainers.
"""

from imdbcls.kernels.acceleration import (
    Fallbacks,
    accelerate,
    encode,
    is_accelerated_on_cpu,
    restore_library_forward,
)
from imdbcls.kernels.building import compiler_version
from imdbcls.kernels.encoder import inference_weights
from imdbcls.kernels.head_input import HeadInput, Tokens
from imdbcls.kernels.heads import accelerate_head
from imdbcls.kernels.identity import PYTORCH, numeric_path, source_digest
from imdbcls.kernels.loading import status
from imdbcls.kernels.masks import attention_mask

__all__ = [
    "PYTORCH",
    "Fallbacks",
    "HeadInput",
    "Tokens",
    "accelerate",
    "accelerate_head",
    "attention_mask",
    "compiler_version",
    "encode",
    "inference_weights",
    "is_accelerated_on_cpu",
    "numeric_path",
    "restore_library_forward",
    "source_digest",
    "status",
]
