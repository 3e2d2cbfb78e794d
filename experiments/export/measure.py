"""Measure the exports of finished IMDB runs on reviews of their validation part.

    python experiments/export/measure.py differences RUN... --documents 500
    python experiments/export/measure.py int8 RUN --documents 5000

`differences` prints the largest difference between the logits of each run and those of its exports. `int8` prints the
cost of the quantization. Nothing is written next to the runs.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import imdbcls
from imdbcls.construction import build_corpus
from imdbcls.data.documents import Documents
from imdbcls.exports import int8
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.folder import WRITERS, write_settings
from imdbcls.exports.source import ExportSource, open_source
from imdbcls.exports.verification import expected_logits, run_script, token_rows

BATCH_SIZE = 16


def source_of(run: imdbcls.FinishedRun) -> ExportSource:
    return open_source(run.folder, run.config, run.result, run.label_names, run.temperature)


def reviews(source: ExportSource, num_documents: int) -> Documents:
    """Return reviews of the validation part, drawn with this size."""
    return build_corpus(source.config.with_changes(data={"validation_limit": num_documents}).data).validation


def batches_of(rows: list[list[int]], pad_id: int) -> list[dict]:
    """Return batches in the order of the documents, so that short and long reviews are mixed."""
    batches = []
    for start in range(0, len(rows), BATCH_SIZE):
        chosen = rows[start : start + BATCH_SIZE]
        width = max(map(len, chosen))
        ids_BT = [row + [pad_id] * (width - len(row)) for row in chosen]
        batches.append(
            {"input_ids": ids_BT, "attention_mask": [[int(i < len(r)) for i in range(width)] for r in chosen]}
        )
    return batches


def differences(folder: Path, formats: list[str], num_documents: int) -> str:
    """Return a row of the table: the largest difference for each format."""
    run = imdbcls.load_run(folder)
    source = source_of(run)
    texts = list(reviews(source, num_documents).texts)
    cells = []
    with TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        rows = token_rows(texts, source, scratch / "tokens")
        batches = batches_of(rows, int(source.tokenizer.pad_token_id))
        expected = np.concatenate(expected_logits(source, batches))
        (scratch / "given.json").write_text(json.dumps({"batches": batches, "texts": texts}))
        for name in formats:
            output = scratch / name
            output.mkdir()
            WRITERS[name](source, output)
            if name != "huggingface":
                write_settings(name, source, output)
            found = run_script(name, output, scratch)
            assert found["token_ids"] == rows, f"{name}: other tokens"
            cells.append(f"{np.abs(np.concatenate(found['logits']) - expected).max():.1e}")
    head = source.config.head.name + (" (bidirectional)" if source.config.head.arguments.get("bidirectional") else "")
    return f"| {head} | {len(texts):,} | {np.abs(expected).max():.1f} | {' | '.join(cells)} |"


def int8_cost(folder: Path, num_documents: int) -> str:
    source = source_of(imdbcls.load_run(folder))
    with TemporaryDirectory() as temporary:
        WRITERS["onnx"](source, Path(temporary))
        int8.quantize(Path(temporary))
        given = CheckDocuments(reviews(source, num_documents), are_own=True)
        return int8.measure(source, Path(temporary), given, num_documents).sentence()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("differences", "int8"))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=["huggingface", "onnx"])
    chosen = parser.parse_args()
    for run in chosen.runs:
        if chosen.what == "int8":
            print(int8_cost(run, chosen.documents))
        else:
            print(differences(run, chosen.formats, chosen.documents))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
