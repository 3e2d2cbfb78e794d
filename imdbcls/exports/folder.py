"""Write one export: build and check it in a temporary folder, and rename the folder if the check succeeds."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imdbcls.errors import UserError
from imdbcls.exports import int8
from imdbcls.exports.card import model_card
from imdbcls.exports.documents import check_documents
from imdbcls.exports.huggingface import edit_json, uses_stock_class, write_huggingface
from imdbcls.exports.marker import read_marker, write_marker
from imdbcls.exports.onnx_file import write_onnx
from imdbcls.exports.program import trace, with_library_operators
from imdbcls.exports.source import ExportSource, config_hash_of, standalone_tokenizer
from imdbcls.exports.verification import Verified, verify
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import EXPORT, FORMAT_VERSION
from imdbcls.runtime.atomic import scratch_folder


@dataclass(frozen=True)
class Export:
    """The folder that `export` wrote, and the differences that it measured between the exported model and the run."""

    folder: Path
    verified: Verified
    int8_cost: int8.Int8Cost | None


def write_torch(source: ExportSource, folder: Path) -> None:
    """Write `model.pt2`, a program of `torch.export` for any batch size and length."""
    import torch

    torch.export.save(with_library_operators(trace(source)), folder / "model.pt2")


WRITERS: dict[str, Callable[[ExportSource, Path], None]] = {
    "huggingface": write_huggingface,
    "onnx": write_onnx,
    "torch": write_torch,
}


def require_new(output: Path, overwrite: bool) -> None:
    """Raise UserError if `output` exists, unless `overwrite` is true and `output` is an export."""
    if not output.exists():
        return
    if not overwrite:
        raise UserError(f"{output} already exists. Add --overwrite to replace it, or choose another --output.")
    read_marker(output)


def write_export(
    name: str,
    source: ExportSource,
    output: Path,
    *,
    overwrite: bool = False,
    with_int8: bool = False,
    num_int8_documents: int = int8.NUM_DOCUMENTS,
) -> Export:
    """Export one or more runs to `output` in the format `name`, and compare the export's logits with the runs' logits.

    Raise UserError and write nothing if `output` must not be replaced, if the runs cannot be exported, or if the logits
    differ.
    """
    require_new(output, overwrite)
    given = check_documents(source)
    parent_is_new = not output.parent.exists()
    try:
        with scratch_folder(output.parent) as scratch:
            folder = scratch / "export"
            folder.mkdir()
            WRITERS[name](source, folder)
            if name != "huggingface":
                write_settings(name, source, folder)
            verified = verify(name, folder, source, given)
            cost = None
            if with_int8:
                int8.quantize(folder)
                cost = int8.measure(source, folder, given, num_int8_documents)
                int8_fields = {"int8": cost.fields()}
                edit_json(folder / "config.json", lambda settings: settings | int8_fields)
            is_stock = name == "huggingface" and uses_stock_class(source)
            card = model_card(name, source, is_stock, verified, given, cost)
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_marker(folder, name, config_hash_of([run.result for run in source.runs]))
            put_in_place(folder, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    finally:
        if parent_is_new:
            with contextlib.suppress(OSError):  # the parent is not empty after a successful export
                output.parent.rmdir()
    return Export(output, verified, cost)


def put_in_place(folder: Path, output: Path) -> None:
    """Rename a complete folder to `output`. Move an existing `output` aside first, and remove it last.

    If renaming fails, the existing folder is moved back. If the process is killed between the two renames, the existing
    folder is in `<output>.old-...`.
    """
    if not output.exists():
        folder.rename(output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{output.name}.old-", dir=output.parent))
    replaced = aside / output.name
    try:
        output.rename(replaced)
        folder.rename(output)
    except BaseException:
        if replaced.exists():
            replaced.rename(output)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_settings(name: str, source: ExportSource, folder: Path) -> None:
    """Write `tokenizer.json` and `config.json`, which describes the inputs, the output and the labels."""
    standalone_tokenizer(source).save(str(folder / "tokenizer.json"))
    members = [
        {
            "temperature": run.temperature,
            "head": run.config.head.name,
            "backbone": run.config.backbone.name,
            "run": run.result.get("name"),
            "config_hash": run.result.get("config_hash"),
        }
        for run in source.runs
    ]
    mean = f"the logarithms of the mean of the calibrated probabilities of {len(members)} runs"
    meaning = mean if source.is_ensemble else "already divided by the temperature"
    content = {
        FORMAT_VERSION: EXPORT,
        "format": name,
        "inputs": {"input_ids": "int64 (batch, length)", "attention_mask": "int64 (batch, length)"},
        "output": f"logits: float32 (batch, labels), {meaning}",
        "labels": list(source.label_names),
        "max_length": source.config.max_length,
        "pad_token_id": int(source.tokenizer.pad_token_id),
        "truncation_side": source.tokenizer.truncation_side,
        **({"members": members} if source.is_ensemble else members[0]),
    }
    (folder / "config.json").write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
