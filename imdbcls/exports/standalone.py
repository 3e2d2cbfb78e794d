"""Run an exported model on the batches in a JSON file. `verification` starts this file as a script.

The script imports only packages that a user of the export needs, and does not import imdbcls.

Usage: standalone.py FORMAT FOLDER INPUT OUTPUT
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[list[int]]
Compute = Callable[[Rows, Rows], list[list[float]]]  # input_ids, attention_mask → logits
TokenIds = Callable[[list[str]], Rows]


def huggingface(folder: Path) -> tuple[Compute, TokenIds]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    has_code = any(folder.glob("*.py"))
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=has_code).eval()

    def compute(ids: Rows, mask: Rows) -> list[list[float]]:
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.tolist()

    return compute, lambda texts: tokenizer(texts, truncation=True)["input_ids"]


def onnx(folder: Path) -> tuple[Compute, TokenIds]:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def compute(ids: Rows, mask: Rows) -> list[list[float]]:
        inputs = {"input_ids": np.array(ids, np.int64), "attention_mask": np.array(mask, np.int64)}
        return session.run(None, inputs)[0].tolist()

    return compute, with_tokenizers(folder)


def torch_program(folder: Path) -> tuple[Compute, TokenIds]:
    import torch

    program: Any = torch.export.load(folder / "model.pt2").module()

    def compute(ids: Rows, mask: Rows) -> list[list[float]]:
        with torch.no_grad():
            return program(torch.tensor(ids), torch.tensor(mask)).tolist()

    return compute, with_tokenizers(folder)


def with_tokenizers(folder: Path) -> TokenIds:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def token_ids(texts: list[str]) -> Rows:
        rows = tokenizer.encode_batch(texts)
        return [[i for i, m in zip(row.ids, row.attention_mask, strict=True) if m] for row in rows]

    return token_ids


FORMATS = {"huggingface": huggingface, "onnx": onnx, "torch": torch_program}


def main(name: str, folder: str, given: str, output: str) -> None:
    compute, token_ids = FORMATS[name](Path(folder))
    batches = json.loads(Path(given).read_text(encoding="utf-8"))
    found = {
        "logits": [compute(batch["input_ids"], batch["attention_mask"]) for batch in batches["batches"]],
        "token_ids": token_ids(batches["texts"]),
    }
    used = {module.partition(".")[0] for module in sys.modules}
    unwanted = {"imdbcls"} | ({"torch", "transformers"} if name == "onnx" else set())
    found["unwanted"] = sorted(used & unwanted)
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
