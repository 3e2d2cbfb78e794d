"""Hardware that some tests need. A test is skipped only if such hardware is missing (`support.requirements`)."""

import sys

import pytest
import torch

from imdbcls.kernels import loading
from imdbcls.runtime import process

ON_LINUX = sys.platform.startswith("linux")
HAS_HALF = ON_LINUX and torch.cpu._is_avx512_bf16_supported()
HAS_FLOATS = ON_LINUX and torch.cpu._is_avx2_supported()

NO_CUDA = "no CUDA device"
NO_AMX = "no AMX"
NO_BF16 = "no AVX512-BF16"
NO_AVX2 = "no AVX2"
NO_KERNELS = "no CPU kernels for this processor"
NO_FP32_KERNELS = "PyTorch computes in fp32 on this processor"
NO_INTEL = "not an Intel processor"
REASONS = frozenset({NO_CUDA, NO_AMX, NO_BF16, NO_AVX2, NO_KERNELS, NO_FP32_KERNELS, NO_INTEL})

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)
needs_bf16 = pytest.mark.skipif(not HAS_HALF, reason=NO_BF16)
needs_avx2 = pytest.mark.skipif(not HAS_FLOATS, reason=NO_AVX2)
needs_kernels = pytest.mark.skipif(not HAS_HALF and not HAS_FLOATS, reason=NO_KERNELS)
# The float32 kernels compile on any processor with AVX2, but runs use them only without AVX-512.
needs_fp32_kernels_in_use = pytest.mark.skipif(not loading.supports_float32_kernels(), reason=NO_FP32_KERNELS)
needs_kernels_in_use = pytest.mark.skipif(
    not HAS_HALF and not loading.supports_float32_kernels(), reason=NO_FP32_KERNELS
)
needs_intel = pytest.mark.skipif(not process._is_by_intel(), reason=NO_INTEL)
