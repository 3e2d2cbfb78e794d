"""Write a run as a folder that `transformers.pipeline("text-classification", model=FOLDER)` loads.

The head `cls` on BERT and RoBERTa becomes the architecture's own class for sequence classification, so that the folder
contains no code. Other models get one modelling file, `modeling_imdbcls.py`, which contains the head's own code.
"""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from imdbcls.config.packages import installed_version
from imdbcls.config.signatures import ALL_LAYERS
from imdbcls.errors import UserError
from imdbcls.exports.head_source import head_source
from imdbcls.exports.source import ExportSource
from imdbcls.heads.cls import ClsHead
from imdbcls.models.encoders import count_hidden_states
from imdbcls.runs.files import json_text

WEIGHTS = "model.safetensors"
MODELING = "modeling_imdbcls.py"
CODE = {"auto_map", "custom_pipelines"}  # keys of a config that name Python code to run
NOT_OF_THE_ENCODER = {"id2label", "label2id", "architectures", "_name_or_path", "transformers_version"}
# The two linear layers of the `cls` head, by model type, in the architecture's own class.
STOCK_LAYERS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}


def uses_stock_class(source: ExportSource) -> bool:
    """Return whether the folder needs no code of its own."""
    return type(source.model.head) is ClsHead and source.encoder_config.model_type in STOCK_LAYERS


def write_huggingface(source: ExportSource, folder: Path) -> None:
    """Write config, weights (safetensors), tokenizer and, if needed, the modelling file."""
    if uses_stock_class(source):
        model = stock_model(source)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        edit_json(folder / "config.json", without_code)
        write_weights(model.state_dict(), folder)
    else:
        write_own_model(source, folder)
    source.tokenizer.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", lambda content: tokenizer_config(content, source.tokenizer))


def stock_model(source: ExportSource) -> Any:
    """Return the architecture's own model with the run's weights. The last layer is divided by the temperature."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(source.encoder_config)
    label_options(config, source)
    head: Any = source.model.head
    config.classifier_dropout = head.dropout.p
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    hidden, output = STOCK_LAYERS[config.model_type]
    weights = {f"{config.model_type}.{name}": value for name, value in source.model.encoder.state_dict().items()}
    for name, value in (*layer(hidden, head.dense), *layer(output, head.output, divisor=source.temperature)):
        weights[name] = value
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise UserError(f"The weights do not fit {type(model).__name__}: {[*missing, *unexpected][0]}.")
    return model


def layer(name: str, linear: nn.Linear, divisor: float = 1.0) -> list[tuple[str, Tensor]]:
    return [(f"{name}.weight", linear.weight.detach() / divisor), (f"{name}.bias", linear.bias.detach() / divisor)]


def label_options(config: Any, source: ExportSource) -> None:
    config.id2label = dict(enumerate(source.label_names))
    config.label2id = {name: index for index, name in enumerate(source.label_names)}
    config.problem_type = "single_label_classification"


def write_own_model(source: ExportSource, folder: Path) -> None:
    """Write the modelling file, its config and the weights, which have the names of the checkpoint."""
    head = source.model.head
    imports, code = head_source(head)
    reads_all_layers = source.model.reads_all_layers
    template = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    text = template.from_string(Path(__file__).with_name("modeling.py.jinja").read_text(encoding="utf-8")).render(
        head_class=type(head).__name__,
        model_type=source.encoder_config.model_type,
        version=installed_version("imdbcls"),
        imports=imports,
        code=code,
        reads_all_layers=reads_all_layers,
    )
    compile(text, MODELING, "exec")
    (folder / MODELING).write_text(text, encoding="utf-8")
    (folder / "config.json").write_text(json_text(own_config(source), indent=2) + "\n", encoding="utf-8")
    write_weights(source.model.state_dict(), folder)


def write_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the weights, with the permissions of an ordinary file."""
    from safetensors.torch import save

    copied = {name: value.detach().clone().contiguous() for name, value in state.items()}
    (folder / WEIGHTS).write_bytes(save(copied, metadata={"format": "pt"}))


def own_config(source: ExportSource) -> Mapping[str, Any]:
    encoder = without_code(json.loads(source.encoder_config.to_json_string(use_diff=False)))
    encoder = {key: value for key, value in encoder.items() if key not in NOT_OF_THE_ENCODER}
    module, classes = MODELING.removesuffix(".py"), ("ImdbclsConfig", "ImdbclsForSequenceClassification")
    return {
        "architectures": [classes[1]],
        "auto_map": {
            "AutoConfig": f"{module}.{classes[0]}",
            "AutoModelForSequenceClassification": f"{module}.{classes[1]}",
        },
        "model_type": "imdbcls",
        "encoder_config": encoder,
        "head_arguments": head_arguments(source),
        "temperature": source.temperature,
        "id2label": {str(index): name for index, name in enumerate(source.label_names)},
        "label2id": {name: index for index, name in enumerate(source.label_names)},
        "problem_type": "single_label_classification",
        "dtype": "float32",
    }


def head_arguments(source: ExportSource) -> dict[str, Any]:
    """Return the keyword arguments of the head's constructor."""
    backbone = source.finished.backbone
    given = {"hidden_size": backbone.hidden_size, "num_labels": len(source.label_names)}
    if source.model.reads_all_layers:
        pad_id = int(backbone.tokenizer.pad_token_id)
        given[ALL_LAYERS] = count_hidden_states(backbone.name, backbone.encoder, pad_id)
    return {**source.config.head.arguments, **given}


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Replace the content of a JSON file."""
    content = edit(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")


def tokenizer_config(content: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return a tokenizer's config with how the run truncates and pads, without code, machine and earlier calls."""
    call = {"is_local", "local_files_only", "max_length", "stride", "truncation_strategy", "pad_to_multiple_of"}
    kept = {key: value for key, value in without_code(content).items() if key not in call}
    # save_pretrained may write earlier values
    return kept | {key: getattr(tokenizer, key) for key in ("model_max_length", "truncation_side", "padding_side")}


def without_code(content: Any) -> Any:
    """Return JSON content without the keys that make transformers run Python code, at any depth."""
    if isinstance(content, dict):
        return {key: without_code(value) for key, value in content.items() if key not in CODE}
    return [without_code(value) for value in content] if isinstance(content, list) else content
