"""Measure the work that is shared by runs with the same documents and encoder: tokenization and cached encoding."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from imdbcls.config.schema import Config
from imdbcls.construction import build_corpus
from imdbcls.data.batches import EvalBatches
from imdbcls.data.documents import Documents
from imdbcls.data.features import VECTORS, load_features, write_features
from imdbcls.data.subset import spread, subset
from imdbcls.data.tokens import tokenize
from imdbcls.runtime.device import all_threads
from imdbcls.sweeps.cost import SharedCost
from imdbcls.sweeps.probe import ENCODE_SECONDS, FEW, MANY, between, build, prepare_probe, probe_config, timed
from imdbcls.training.feature_cache import encode, key_of_batches
from imdbcls.training.run import Run


def write_shared_cost(config: Config, folder: Path, answer: Path) -> None:
    """Measure the shared work in this process, with its files in `folder`, and write its `SharedCost` as JSON."""
    prepare_probe()
    answer.write_text(json.dumps(asdict(measure_shared(config, folder))))


def measure_shared(config: Config, folder: Path) -> SharedCost:
    """Return the cost of tokenization and, with a feature cache, of encoding documents and caching the output."""
    corpus = build_corpus(config.data)
    encoder: dict[str, object] = {"cache": False}
    if config.uses_feature_cache:  # also for an encoder that is frozen only in the first epochs
        encoder |= {"freeze": True, "lora_rank": None, "reinit_layers": 0}
    uncached = probe_config(config, folder).with_changes(backbone=encoder)
    documents, few = corpus.train, subset(corpus, dict.fromkeys(corpus.splits, FEW))
    _, run = build(uncached, folder / "run", few)
    sample = spread(documents, MANY)
    seconds, _ = timed(partial(tokenize, sample, run.backbone.tokenizer, cache_dir=folder))
    cost = SharedCost(tokenize_seconds=seconds / len(sample))
    return with_encoding(cost, run, documents, folder) if config.uses_feature_cache else cost


def with_encoding(cost: SharedCost, run: Run, documents: Documents, folder: Path) -> SharedCost:
    """Add the cost of encoding to the cost of tokenization.

    The first two calls of `write` serve only to choose the size of the sample for the third call.
    """
    few = batches_of(run, spread(documents, FEW), folder)
    write(run, few, folder / "first")
    seconds, _ = timed(partial(write, run, few, folder / "second"))
    many = batches_of(run, spread(documents, between(FEW, FEW * ENCODE_SECONDS / seconds, MANY)), folder)
    encoding, _ = timed(partial(write, run, many, folder / "third"))
    checking, _ = timed(partial(check, many, folder / "third"))
    return replace(
        cost,
        encode_seconds=encoding / many.num_documents,
        check_seconds=checking / many.num_documents,
        feature_bytes=(folder / "third" / VECTORS).stat().st_size / many.num_documents,
    )


def batches_of(run: Run, documents: Documents, folder: Path) -> EvalBatches:
    return run.pipeline.eval_batches(tokenize(documents, run.backbone.tokenizer, cache_dir=folder), documents.labels)


def write(run: Run, batches: EvalBatches, entry: Path) -> None:
    """Encode documents and write the output as `encode_once` does."""
    with all_threads():
        write_features(entry, batches.num_documents, encode(run.model, batches, run.hardware, lambda *_: None))


def check(batches: EvalBatches, entry: Path) -> None:
    """Find and check an entry of the feature cache as `encode_once` does in each run."""
    key_of_batches("", batches)
    assert load_features(entry) is not None, "the entry was just written"
