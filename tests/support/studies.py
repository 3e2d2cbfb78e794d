"""Simulate realistic studies without training.

Each head has a known skill. Each document has a difficulty that all heads share, and one effect for each head. Each run
has a random effect of its seed, and a random effect for each document. The sum of these effects is the margin of the
true class, from which the probabilities are computed. Some labels are wrong on purpose.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import chosen
from imdbcls.comparison.views.rendered import Rendered, render

WORDS = ("film", "story", "actor", "scene", "plot", "music", "ending", "laugh", "cried", "boring", "wonderful", "dull")


@dataclass(frozen=True)
class Head:
    name: str
    skill: float = 0.0
    seed_spread: float = 0.02
    quirk: float = 0.4
    sharpness: float = 2.0
    parameters: int = 600_000
    seconds: float = 900.0


HEADS = (
    Head("transformer", skill=0.335, seed_spread=0.012, parameters=7_680_000, seconds=1_460),
    Head("cls", skill=0.33, seed_spread=0.012, sharpness=2.4, parameters=592_000, seconds=1_210),
    Head("lstm", skill=0.31, seed_spread=0.05, sharpness=3.2, parameters=4_730_000, seconds=1_720),
    Head("weight_avg", skill=0.25, sharpness=1.6, parameters=2_050, seconds=1_190),
    Head("mean", skill=0.0, sharpness=1.3, parameters=1_538, seconds=1_180),
)


def make_study(
    folder: Path,
    heads: Sequence[Head] = HEADS,
    seeds: Sequence[int] = (0, 1, 2),
    num_documents: int = 1_000,
    num_classes: int = 2,
    max_length: int = 256,
    random_seed: int = 7,
    first_document: int = 0,
    split_hash: str = "5a17",
    documents_of_a_film: int | None = None,
) -> Path:
    """Write one run folder per head and seed into `folder`, and return `folder`."""
    films = None if documents_of_a_film is None else [f"film {i // documents_of_a_film}" for i in range(num_documents)]
    generator = np.random.default_rng(random_seed)
    labels = generator.integers(0, num_classes, num_documents)
    tokens = np.clip(generator.lognormal(5.45, 0.65, num_documents), 12, 2_500).astype(np.int64)
    difficulty = generator.normal(2.2, 1.25, num_documents) - 0.9 * (tokens > max_length)
    mislabelled = generator.random(num_documents) < 0.012
    ids = [f"test/{'neg' if label == 0 else 'pos'}/{first_document + i:05d}" for i, label in enumerate(labels)]
    for head in heads:
        quirk = head.quirk * generator.normal(size=num_documents)
        for seed in seeds:
            luck = head.seed_spread * generator.normal()
            margin = difficulty + head.skill + quirk + luck + 0.55 * generator.normal(size=num_documents)
            margin = np.where(mislabelled, -np.abs(margin) - 1.5, margin) * head.sharpness
            write_run(
                folder,
                head,
                seed,
                ids,
                labels,
                probabilities_of(margin, labels, num_classes, generator),
                tokens,
                max_length,
                split_hash,
                films,
            )
    (folder / "wandb").mkdir(exist_ok=True)
    (folder / "multirun.yaml").write_text("hydra: {}\n")
    return folder


def rendered_study(folder: Path, metric: str | None = None) -> Rendered:
    """Compare a study folder, by default with its own metric, and render its figures and its page."""
    study = read_study(folder)
    return render(study, *chosen(study, metric), folder)


def probabilities_of(
    margin: np.ndarray, labels: np.ndarray, num_classes: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the softmax of these logits: 0 for the label, and minus the margin for each other class.

    With three or more classes, the logits of the other classes have noise.
    """
    logits = -margin[:, None] - np.abs(generator.normal(size=(len(labels), num_classes))) * (num_classes > 2)
    logits[np.arange(len(labels)), labels] = 0.0
    logits -= logits.max(axis=1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def write_run(
    study: Path,
    head: Head,
    seed: int,
    ids: list[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    tokens: np.ndarray,
    max_length: int,
    split_hash: str,
    films: list[str] | None = None,
) -> Path:
    folder = study / f"{head.name}-s{seed}"
    (folder / "predictions").mkdir(parents=True)
    predictions = probabilities.argmax(axis=1)
    accuracy = float((predictions == labels).mean())
    num_classes = probabilities.shape[1]
    config = {
        "head": {"_target_": f"imdbcls.heads.{head.name}.Head", "dropout": 0.1},
        "lr": 3e-5,
        "seed": seed,
        "max_length": max_length,
        "study": study.name,
        "data": {"path": "stanfordnlp/imdb", "order_seed": seed},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in history(accuracy, head, seed)))
    result: dict[str, Any] = {
        "format_version": 1,
        "status": "done",
        "study": study.name,
        "name": folder.name,
        "head": head.name,
        "backbone": "minilm",
        "seed": seed,
        "config_hash": f"{head.name}{seed}",
        "group_hash": f"group-{head.name}",
        "split_hash": split_hash,
        "best_epoch": 3,
        "val/accuracy": accuracy - 0.002,
        "test/accuracy": accuracy,
        "temperature": head.sharpness / 2,
        "parameters": 22_700_000 + head.parameters,
        "head_parameters": head.parameters,
        "train_seconds": head.seconds * (1 + 0.01 * seed),
        "documents_per_second": 75_000 / head.seconds,
        "tokens_per_second": 15_000_000 / head.seconds,
        "peak_memory_mb": 2_400 + head.parameters / 50_000,
        "max_length": max_length,
        "latency_ms": {"p50": 9 + head.parameters / 2e6, "p95": 14 + head.parameters / 1.5e6},
        "label_names": ["negative", "positive"] if num_classes == 2 else [f"class {i}" for i in range(num_classes)],
        "versions": {"torch": "2.13.0"},
        "git_commit": "0" * 40,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    table = pa.table(
        {
            "id": ids,
            "label": labels,
            "prediction": predictions,
            "probabilities": pa.array(probabilities.astype(np.float32).tolist(), pa.list_(pa.float32())),
            "tokens": tokens,
            **({} if films is None else {"cluster": films}),
        }
    )
    pq.write_table(table, folder / "predictions" / "test.parquet")
    return folder


def history(accuracy: float, head: Head, seed: int) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed)
    points = []
    for step in range(1, 61):
        epoch = step / 20
        point = {"step": step * 20, "epoch": epoch, "train/loss": 0.7 * np.exp(-epoch) + 0.02 * generator.normal()}
        if step % 10 == 0:
            point["val/accuracy"] = accuracy - 0.08 * np.exp(-1.6 * epoch) + 0.002 * generator.normal()
            point["val/loss"] = 0.16 + 0.3 * np.exp(-1.8 * epoch) + 0.01 * max(0, epoch - 1.5) * head.sharpness
        points.append(point)
    return points


def review_texts(ids: Sequence[str], random_seed: int = 3) -> dict[str, str]:
    generator = np.random.default_rng(random_seed)
    return {id_: " ".join(generator.choice(WORDS, generator.integers(30, 200))).capitalize() + "." for id_ in ids}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a made-up study of 5 heads.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=25_000)
    choices = parser.parse_args()
    make_study(choices.folder, seeds=range(choices.seeds), num_documents=choices.documents)


def with_documents(folder: Path) -> Path:
    """Create a working directory with 120 training and 40 test documents."""
    folder.mkdir()
    for split, count in (("train", 120), ("test", 40)):
        rows = [f"{split}{i},{'good' if i % 2 else 'bad'} film{i},{i % 2}" for i in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    return folder
