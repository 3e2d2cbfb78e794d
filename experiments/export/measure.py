"""Measure the exports of finished IMDB runs on reviews of their validation splits.

    python experiments/export/measure.py differences RUN... --documents 500
    python experiments/export/measure.py int8 RUN --documents 5000
    python experiments/export/measure.py predict RUN --documents 1000

`differences` prints the largest difference between the logits of each run and of its exports. `int8` prints the
accuracy and speed before and after quantization. `predict` compares the speed of `imdbcls.predict` on a file with the
speed of evaluation. The run folders are not changed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

import imdbcls
from imdbcls.bulk import Target, classify
from imdbcls.construction import build_corpus
from imdbcls.data.columns import Request
from imdbcls.data.documents import Documents
from imdbcls.data.unlabeled import from_file
from imdbcls.exports import int8
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.folder import WRITERS, write_settings
from imdbcls.exports.source import ExportSource, open_source
from imdbcls.exports.verification import expected_logits, run_script, token_rows

BATCH_SIZE = 16
REPEATS = 4  # how often each speed is measured


def reviews(source: ExportSource, num_documents: int) -> Documents:
    """Return `num_documents` reviews of the validation split."""
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
    """Return a row of the README's table: the largest difference between the logits of a run and of each export."""
    source = open_source([imdbcls.load_run(folder)])
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
            assert found["token_ids"] == rows, f"the export {name} tokenizes the reviews differently from its run"
            cells.append(f"{np.abs(np.concatenate(found['logits']) - expected).max():.1e}")
    head = source.config.head.name + (" (bidirectional)" if source.config.head.arguments.get("bidirectional") else "")
    return f"| {head} | {len(texts):,} | {np.abs(expected).max():.1f} | {' | '.join(cells)} |"


def int8_cost(folder: Path, num_documents: int) -> str:
    source = open_source([imdbcls.load_run(folder)])
    with TemporaryDirectory() as temporary:
        WRITERS["onnx"](source, Path(temporary))
        int8.quantize(Path(temporary))
        given = CheckDocuments(reviews(source, num_documents), are_own=True)
        return int8.measure(source, Path(temporary), given, num_documents).sentence()


def predict_speed(folder: Path, num_documents: int) -> str:
    """Return the speeds of `predict` and of evaluation on the same documents.

    Both use a model that is already loaded. `predict` reads and writes a file. Evaluation reads cached tokens, as a run
    does at its end.
    """
    run = imdbcls.load_run(folder)
    documents = build_corpus(run.config.with_changes(data={"validation_limit": num_documents}).data).validation
    run.predict_documents(documents)
    speeds: dict[str, list[float]] = {"predict": [], "evaluation": []}
    with TemporaryDirectory() as temporary:
        given, output = Path(temporary, "texts.jsonl"), Path(temporary, "answers.jsonl")
        given.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents.texts))
        for _ in range(REPEATS):
            texts = from_file(given, Request((("text_column", "text"),), spelling="option"))
            started = time.process_time()
            classify(texts, run, Target(output, sys.stdout, None), shard=(1, 1), calibrated=True)
            speeds["predict"].append(len(documents.texts) / (time.process_time() - started))
            started = time.process_time()
            run.predict_documents(documents)
            speeds["evaluation"].append(len(documents.texts) / (time.process_time() - started))
    ratio = median(one / other for one, other in zip(*speeds.values(), strict=True))
    cells = [f"{name} {median(values):.1f} documents per CPU second" for name, values in speeds.items()]
    return f"{len(documents.texts):,} documents, {REPEATS} repeats: {', '.join(cells)}; median ratio {ratio:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("differences", "int8", "predict"))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=["huggingface", "onnx"])
    chosen = parser.parse_args()
    for run in chosen.runs:
        if chosen.what == "int8":
            print(int8_cost(run, chosen.documents))
        elif chosen.what == "predict":
            print(predict_speed(run, chosen.documents))
        else:
            print(differences(run, chosen.formats, chosen.documents))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
