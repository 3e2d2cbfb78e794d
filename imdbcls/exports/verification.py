"""Compare an export with its run on real documents. The export runs in a process that does not import imdbcls."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imdbcls.data.batch import Collator
from imdbcls.data.documents import Documents
from imdbcls.data.tokens import tokenize
from imdbcls.errors import UserError
from imdbcls.exports.documents import NUM_TEXTS, CheckDocuments, check_batches
from imdbcls.exports.program import log_mean
from imdbcls.exports.source import ExportSource, Member
from imdbcls.kernels import inference_weights
from imdbcls.runtime.atomic import scratch_folder

TOLERANCE = 1e-4  # largest allowed absolute difference of a logit
SCRIPT = Path(__file__).with_name("standalone.py")


@dataclass(frozen=True)
class Verified:
    """The largest absolute difference between the logits of an export and of its run."""

    largest_difference: float
    num_batches: int


def verify(name: str, folder: Path, source: ExportSource, given: CheckDocuments) -> Verified:
    """Check an export's logits and token ids against the run. Raise UserError if they differ."""
    texts = longest_and_first(given.documents.texts)
    with scratch_folder(folder.parent) as scratch:
        rows = token_rows(texts, source, scratch / "tokens")
        batches = check_batches(rows, source)
        (scratch / "given.json").write_text(json.dumps({"batches": batches, "texts": texts}), encoding="utf-8")
        found = run_script(name, folder, scratch)
    if found["unwanted"]:
        raise AssertionError(f"the check imported {', '.join(found['unwanted'])}")
    if found["token_ids"] != rows:
        wrong = next(i for i, row in enumerate(rows) if row != found["token_ids"][i])
        raise UserError(
            f"The tokenizer of the {name} export does not give the same tokens as the run, for example for the text "
            f"that begins with {texts[wrong][:40]!a}. Nothing was written. Try another --to."
        )
    expected = expected_logits(source, batches)
    pairs = zip(found["logits"], expected, strict=True)
    largest = max(float(np.abs(np.array(logits_BC) - expected_BC).max()) for logits_BC, expected_BC in pairs)
    if not largest <= TOLERANCE:
        raise UserError(
            f"The logits of the {name} export differ from the logits of the run by up to {largest:.2g}; at most "
            f"{TOLERANCE:g} is allowed. Nothing was written. Try another --to."
        )
    return Verified(largest, len(batches))


def longest_and_first(texts: Sequence[str]) -> list[str]:
    """Return the longest text, followed by the first other texts. The longest text tests the truncation."""
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    others = [text for i, text in enumerate(texts) if i != longest]
    return [texts[longest], *others[: NUM_TEXTS - 1]]


def token_rows(texts: list[str], source: ExportSource, cache_dir: Path) -> list[list[int]]:
    """Return the token ids of each text as in the run: truncated, with special tokens, without padding."""
    labels = np.zeros(len(texts), dtype=np.int64)
    documents = Documents([str(i) for i in range(len(texts))], texts, labels)
    finished = source.members[0].finished
    tokens = tokenize(documents, finished.backbone.tokenizer, cache_dir=str(cache_dir))
    collator = Collator(tokens, labels, source.config.max_length, finished.pipeline.truncation)
    batches = (collator.collate(np.array([row])) for row in range(len(texts)))
    return [batch.input_ids_BT[batch.mask_BT].tolist() for batch in batches]


@torch.inference_mode()
def expected_logits(source: ExportSource, batches: list[dict]) -> list[np.ndarray]:
    """Return the logits that the export should give for each batch, computed by the runs' own models."""
    by_member = [logits_of(member, batches) for member in source.members]
    if not source.is_ensemble:
        return [logits_BC.numpy() for logits_BC in by_member[0]]
    return [log_mean(of_batch).numpy() for of_batch in zip(*by_member, strict=True)]


def logits_of(member: Member, batches: list[dict]) -> list[torch.Tensor]:
    """Return logits_BC of a run for each batch, divided by its temperature."""
    model = member.finished.model.eval()
    with inference_weights():
        return [
            model(torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"]).bool())
            / member.run.temperature
            for batch in batches
        ]


def run_script(name: str, folder: Path, scratch: Path) -> dict:
    """Run `standalone.py` in a new process and return the JSON that it wrote. Raise UserError if the process fails."""
    output = scratch / "found.json"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(scratch / "modules")}
    command = [sys.executable, "-P", str(SCRIPT), name, str(folder), str(scratch / "given.json"), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not output.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise UserError(
            f"The {name} export cannot be loaded without imdbcls ({last}). Nothing was written. Try another --to."
        )
    return json.loads(output.read_text(encoding="utf-8"))
