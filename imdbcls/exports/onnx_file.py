"""Write the exported model as an ONNX file that runs in onnxruntime without torch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.exports.program import INPUTS, RECURRENT_OPTIONS, one_sentence, trace
from imdbcls.exports.source import ExportSource
from imdbcls.runtime import limits

MODEL = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_packages() -> None:
    """Raise UserError if a package of the extra `export` is missing."""
    from importlib.util import find_spec

    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"--to onnx needs {', '.join(missing)}: pip install {' '.join(missing)}.")


def write_onnx(source: ExportSource, folder: Path) -> None:
    """Write `model.onnx`, with the inputs `input_ids` and `attention_mask` and the output `logits`.

    The batch size and the length are dynamic. Raise UserError if the model is too large or cannot be expressed in
    ONNX.
    """
    require_packages()
    require_size(source)
    import torch

    program = trace(source)
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                program,
                f=str(folder / MODEL),
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamo=True,
                verbose=False,
                external_data=False,
                custom_translation_table={
                    torch.ops.imdbcls_exports.lstm.default: onnx_lstm,
                    torch.ops.imdbcls_exports.gru.default: onnx_gru,
                },
            )
    except Exception as error:  # the exporter may raise any exception
        if (explained := limits.explain(error)) is not None:
            raise explained from error
        raise UserError(
            f"{source.description} cannot be expressed in ONNX ({one_sentence(error)}). Use --to huggingface."
        ) from error


def require_size(source: ExportSource) -> None:
    """Raise UserError if the float32 weights are larger than 2 GB, protobuf's limit for one ONNX file."""
    from onnx.checker import MAXIMUM_PROTOBUF

    num_bytes = 4 * sum(weight.numel() for member in source.members for weight in member.model.parameters())
    if num_bytes > MAXIMUM_PROTOBUF:
        raise UserError(
            f"The weights of {source.description} need {num_bytes / 1e9:.1f} GB, and an ONNX file is limited to 2 GB. "
            "Use --to huggingface or torch."
        )


def onnx_lstm(input_BTD: Any, state: Any, weights: Any) -> Any:
    """Translate `program.lstm` to the LSTM operator of ONNX."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_lstm

    return aten_lstm(input_BTD, state, weights, *RECURRENT_OPTIONS)


def onnx_gru(input_BTD: Any, state: Any, weights: Any) -> Any:
    """Translate `program.gru` to the GRU operator of ONNX."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_gru

    return aten_gru(input_BTD, state, weights, *RECURRENT_OPTIONS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's progress messages and warnings, such as those about missing optional packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
