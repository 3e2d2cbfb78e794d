"""Write one or more runs as a folder that `transformers.pipeline("text-classification", model=FOLDER)` loads.

For a single run with `head=cls` on BERT or RoBERTa, the architecture's own class for sequence classification is used,
so the folder contains no code. Any other folder contains a modelling file, `modeling_imdbcls.py`, with the code of the
head. For several runs, this file contains the code of all heads and averages the probabilities of the runs.
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
from imdbcls.exports.source import ExportSource, Member
from imdbcls.heads.cls import ClsHead
from imdbcls.models.classifier import layers_read
from imdbcls.models.encoders import count_hidden_states
from imdbcls.runs.files import json_text

WEIGHTS = "model.safetensors"
MODELING = "modeling_imdbcls.py"
CODE = {"auto_map", "custom_pipelines"}  # keys of a config that name Python code to run
NOT_OF_THE_ENCODER = {"id2label", "label2id", "architectures", "_name_or_path", "transformers_version"}
# The names of the two linear layers of the `cls` head in the architecture's own class, by model type.
STOCK_LAYERS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}


def uses_stock_class(source: ExportSource) -> bool:
    """Return whether the export needs no modelling file, because transformers has a class for this model."""
    first = source.members[0]
    has_stock_layers = type(first.model.head) is ClsHead and first.encoder_config.model_type in STOCK_LAYERS
    return has_stock_layers and not source.is_ensemble


def write_huggingface(source: ExportSource, folder: Path) -> None:
    """Write the config, the weights (safetensors), the tokenizer and, if needed, the modelling file."""
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
    """Return the architecture's own model with the run's weights. Divide the last layer by the temperature."""
    from transformers import AutoModelForSequenceClassification

    (member,) = source.members
    config = copy.deepcopy(member.encoder_config)
    label_options(config, source)
    head: Any = member.model.head
    config.classifier_dropout = head.dropout.p
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    hidden, output = STOCK_LAYERS[config.model_type]
    weights = {f"{config.model_type}.{name}": value for name, value in member.model.encoder.state_dict().items()}
    weights |= dict([*layer(hidden, head.dense), *layer(output, head.output, divisor=member.run.temperature)])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        wrong = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unexpected"
        raise UserError(f"The weights do not fit {type(model).__name__}: {wrong}. Use --to onnx or torch.")
    return model


def layer(name: str, linear: nn.Linear, divisor: float = 1.0) -> list[tuple[str, Tensor]]:
    return [(f"{name}.weight", linear.weight.detach() / divisor), (f"{name}.bias", linear.bias.detach() / divisor)]


def label_options(config: Any, source: ExportSource) -> None:
    config.id2label = dict(enumerate(source.label_names))
    config.label2id = {name: index for index, name in enumerate(source.label_names)}
    config.problem_type = "single_label_classification"


def write_own_model(source: ExportSource, folder: Path) -> None:
    """Write the modelling file, its config and the weights.

    The weights of a single run have the same names as in the checkpoint. With several runs, the names of the weights of
    run i begin with `members.<i>.`, counted from 0.
    """
    heads = [member.model.head for member in source.members]
    imports, code = head_source(*heads)
    needed = {"import inspect", "import torch", *(["import math"] if source.is_ensemble else [])}
    template = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    text = template.from_string(Path(__file__).with_name("modeling.py.jinja").read_text(encoding="utf-8")).render(
        description=class_description(source),
        version=installed_version("imdbcls"),
        imports=sorted({*imports, *needed}),
        code=code,
        heads=list(dict.fromkeys(type(head).__name__ for head in heads)),
        is_ensemble=source.is_ensemble,
    )
    compile(text, MODELING, "exec")
    (folder / MODELING).write_text(text, encoding="utf-8")
    (folder / "config.json").write_text(json_text(own_config(source), indent=2) + "\n", encoding="utf-8")
    prefixes = [f"members.{index}." if source.is_ensemble else "" for index in range(len(source.members))]
    states = zip(prefixes, (member.model.state_dict() for member in source.members), strict=True)
    write_weights({prefix + name: value for prefix, state in states for name, value in state.items()}, folder)


def class_description(source: ExportSource) -> str:
    """Describe the content of the modelling file, as the beginning of a sentence."""
    names = [
        f"{type(each.model.head).__name__} on a {each.encoder_config.model_type} encoder" for each in source.members
    ]
    if not source.is_ensemble:
        return f"A {names[0]}"
    return f"The mean of {len(names)} models ({', '.join(dict.fromkeys(names))})"


def write_weights(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the weights, with the permissions of an ordinary file."""
    from safetensors.torch import save

    copied = {name: value.detach().clone().contiguous() for name, value in state.items()}
    (folder / WEIGHTS).write_bytes(save(copied, metadata={"format": "pt"}))


def own_config(source: ExportSource) -> Mapping[str, Any]:
    members = [member_config(member) for member in source.members]
    module, kind = MODELING.removesuffix(".py"), "Ensemble" if source.is_ensemble else ""
    model_class = f"Imdbcls{kind}ForSequenceClassification"
    return {
        "architectures": [model_class],
        "auto_map": {
            "AutoConfig": f"{module}.ImdbclsConfig",
            "AutoModelForSequenceClassification": f"{module}.{model_class}",
        },
        "model_type": "imdbcls",
        **({"members": members} if source.is_ensemble else members[0]),
        "id2label": {str(index): name for index, name in enumerate(source.label_names)},
        "label2id": {name: index for index, name in enumerate(source.label_names)},
        "problem_type": "single_label_classification",
        "dtype": "float32",
    }


def member_config(member: Member) -> dict[str, Any]:
    """Return what the modelling file needs to build the model of a run."""
    encoder = without_code(json.loads(member.encoder_config.to_json_string(use_diff=False)))
    return {
        "encoder_config": {key: value for key, value in encoder.items() if key not in NOT_OF_THE_ENCODER},
        "head": type(member.model.head).__name__,
        "head_arguments": head_arguments(member),
        "temperature": member.run.temperature,
    }


def head_arguments(member: Member) -> dict[str, Any]:
    """Return the keyword arguments of the head's constructor."""
    backbone = member.finished.backbone
    given = {"hidden_size": backbone.hidden_size, "num_labels": len(member.run.label_names)}
    if layers_read(member.model.head) == "all":
        pad_id = int(backbone.tokenizer.pad_token_id)
        given[ALL_LAYERS] = count_hidden_states(backbone.name, backbone.encoder, pad_id)
    return {**member.run.config.head.arguments, **given}


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Rewrite a JSON file with the result of `edit`, which gets the old content."""
    content = edit(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")


def tokenizer_config(content: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return a tokenizer's config with the run's truncation and padding.

    Keys that name code, that describe this machine, or that record arguments of earlier calls are removed.
    """
    call = {"is_local", "local_files_only", "max_length", "stride", "truncation_strategy", "pad_to_multiple_of"}
    kept = {key: value for key, value in without_code(content).items() if key not in call}
    # These values are read from the tokenizer, because save_pretrained may write earlier values.
    return kept | {key: getattr(tokenizer, key) for key in ("model_max_length", "truncation_side", "padding_side")}


def without_code(content: Any) -> Any:
    """Return JSON content without the keys that make transformers run Python code, at any depth."""
    if isinstance(content, dict):
        return {key: without_code(value) for key, value in content.items() if key not in CODE}
    return [without_code(value) for value in content] if isinstance(content, list) else content
