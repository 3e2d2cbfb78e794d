"""Encoders of many families either work, with padding invariance, or are rejected with a clear error."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.backbones import TEXTS, load
from support.heads import MAKERS
from support.small_models import VOCABULARY, make_tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

import imdbcls
from imdbcls import sections
from imdbcls.data.batches import EvalBatches
from imdbcls.data.documents import Documents
from imdbcls.data.tokens import tokenize
from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.models.encoder_weights import require_architecture
from imdbcls.models.encoders import require_precision
from imdbcls.models.layers import freeze, recompute_activations

SPARE = 3  # additional embeddings: the tokenizer of Qwen2 adds a token
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BERT_LIKE = {**SIZES, "max_position_embeddings": 130}
PAIR = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
# The config class, its sizes, and the maximum number of tokens in a document (None: no limit).
WORKING: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "electra": ("ElectraConfig", {**BERT_LIKE, "embedding_size": 16}, 130),
    "albert": ("AlbertConfig", {**BERT_LIKE, "embedding_size": 16}, 130),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}, 512),
    "mpnet": ("MPNetConfig", BERT_LIKE, 128),
    "xlm-roberta": ("XLMRobertaConfig", BERT_LIKE, 128),
    "deberta": ("DebertaConfig", {**BERT_LIKE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, 130),
    "xlnet": ("XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}, None),
    "funnel": (
        "FunnelConfig",
        {"block_sizes": [1, 1], "block_repeats": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48},
        None,
    ),
    "longformer": ("LongformerConfig", {**BERT_LIKE, "attention_window": 16}, 128),
    "big_bird": ("BigBirdConfig", {**BERT_LIKE, "block_size": 4, "num_random_blocks": 1}, 130),
    "squeezebert": ("SqueezeBertConfig", {**BERT_LIKE, "embedding_size": 32}, 130),
    "bart": ("BartConfig", {**PAIR, "max_position_embeddings": 128}, 128),
    "led": ("LEDConfig", {**PAIR, "max_encoder_position_embeddings": 128, "attention_window": 16}, 128),
    "t5": ("T5Config", T5, None),
    "umt5": ("UMT5Config", T5, None),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}, 128),
    "qwen2": ("Qwen2Config", {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 128}, 128),
    "llama": ("LlamaConfig", {**SIZES, "max_position_embeddings": 128}, 128),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 2}, None),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, None),
}
CAUSAL = {"gpt2", "qwen2", "llama", "bloom", "mamba"}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "fnet": ("FNetConfig", {**BERT_LIKE}, "padding changes its output"),
    "convbert": ("ConvBertConfig", {**BERT_LIKE, "embedding_size": 32}, "padding changes its output"),
    "nystromformer": ("NystromformerConfig", {**BERT_LIKE, "num_landmarks": 4}, "cannot be used"),
    "vit": ("ViTConfig", {**SIZES, "image_size": 32}, "cannot be used|no token embeddings"),
    "reformer": (
        "ReformerConfig",
        {
            **{"hidden_size": 32, "attn_layers": ["local", "lsh"], "num_attention_heads": 2, "attention_head_size": 16},
            **{"feed_forward_size": 48, "max_position_embeddings": 128, "axial_pos_embds": False, "num_buckets": 4},
            **{"lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8, "is_decoder": False},
        },
        "cannot be used",
    ),
}


def make(folder: Path, kind: str, sizes: dict[str, Any], tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Save a random model of a family, with weights so large that the effect of a layer is far above rounding."""
    config: PretrainedConfig = getattr(transformers, kind)(
        **{"vocab_size": VOCABULARY + SPARE, "pad_token_id": 1, **sizes}
    )
    if kind == "FunnelConfig":
        config.architectures = ["FunnelModel"]  # the library has two classes and requires a choice
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    (make_tokenizer("roberta") if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder


def bare_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like GPT-2's, without special tokens around a text and without a padding token."""
    backend = Tokenizer.from_str(make_tokenizer("roberta").backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def family_folder(name: str, folder: Path) -> Path:
    kind, sizes, _ = WORKING[name]
    return make(folder, kind, sizes, bare_tokenizer() if name in CAUSAL else None)


def batches_of(backbone: Backbone, texts: list[str], cache: Path) -> EvalBatches:
    documents = Documents([str(row) for row in range(len(texts))], texts, torch.zeros(len(texts)).long().numpy())
    tokens = tokenize(documents, backbone.tokenizer, cache_dir=cache)
    return EvalBatches(tokens, documents.labels, batch_size=8, max_length=96, truncation="head")


@pytest.mark.parametrize("name", WORKING)
def test_family_works_and_ignores_padding(name: str, tmp_path: Path) -> None:
    backbone = load(family_folder(name, tmp_path / "model"))
    assert backbone.max_length == WORKING[name][2] and backbone.causal == (name in CAUSAL)
    texts = [*TEXTS, "\u200b"]  # the last text has only special tokens, or none
    for head in ("mean", "lstm"):
        model = Classifier(backbone.encoder, MAKERS[head](32)).eval()
        (together,) = batches_of(backbone, texts, tmp_path)
        with torch.inference_mode():
            logits_BC = model(**together.inputs)
            assert torch.isfinite(logits_BC).all() and torch.equal(logits_BC, model(**together.inputs))
            for index, row in enumerate(together.rows.tolist()):
                (single,) = batches_of(backbone, [texts[row]], tmp_path)
                torch.testing.assert_close(model(**single.inputs)[0], logits_BC[index], rtol=0, atol=2e-4)
    loss = model.train()(**together.inputs).square().sum()
    loss.backward()
    gradients = [weight.grad for weight in backbone.encoder.parameters() if weight.grad is not None]
    assert len(gradients) > 3 and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", WORKING)
def test_family_can_be_rebuilt_from_run_folder(name: str, tmp_path: Path) -> None:
    first = load(family_folder(name, tmp_path / "model"))
    first.save(tmp_path / "run")
    shapes = {f"encoder.{key}": tuple(value.shape) for key, value in first.encoder.state_dict().items()}
    require_architecture(tmp_path / "run", shapes)
    again = load(tmp_path / "run", pretrained=False)
    again.encoder.load_state_dict(first.encoder.state_dict())
    assert (again.max_length, again.causal) == (first.max_length, first.causal)
    (batch,) = batches_of(first, TEXTS, tmp_path)
    (same,) = batches_of(again, TEXTS, tmp_path)
    assert torch.equal(batch.input_ids_BT, same.input_ids_BT)
    heads = [Classifier(each.encoder, MAKERS["mean"](32)).eval() for each in (first, again)]
    hidden = [model.encode(batch.input_ids_BT, batch.mask_BT, None) for model in heads]
    torch.testing.assert_close(*[each[batch.mask_BT] for each in hidden], rtol=0, atol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_family_is_rejected_on_load(name: str, tmp_path: Path) -> None:
    kind, sizes, message = REFUSED[name]
    with pytest.raises(UserError, match=f"backbone=small.*({message})") as refused:
        load(make(tmp_path, kind, sizes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("surplus", [1, 3])
def test_tokenizer_with_more_tokens_than_embeddings(surplus: int, tmp_path: Path) -> None:
    kind, sizes, _ = WORKING["electra"]
    tokenizer = make_tokenizer("roberta")
    tokenizer.add_tokens([f"<new{number}>" for number in range(SPARE + surplus)])
    folder = make(tmp_path, kind, sizes, tokenizer)
    have, need = VOCABULARY + SPARE, VOCABULARY + SPARE + surplus
    message = (
        rf"needs {need} embeddings \(its last token is '<new{SPARE + surplus - 1}>'\), but the encoder has {have}\."
    )
    with pytest.raises(UserError, match=message):
        load(folder)
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(need)
    model.save_pretrained(folder)
    assert load(folder).hidden_size == 32, "the remedy in the error message must work"


def test_first_token_only_head_rejects_causal_encoder(tmp_path: Path) -> None:
    path = f"backbone.path={family_folder('gpt2', tmp_path)}"
    for head, is_refused in (("cls", True), ("mean", False)):
        config = imdbcls.compose("backbone=roberta-base", path, f"head={head}", "max_length=64")
        backbone = sections.build_backbone(config)
        if is_refused:
            with pytest.raises(UserError, match=r"head=cls reads only the first token.*Use head=last, mean"):
                sections.build_model(config, backbone, 2)
        else:
            sections.build_model(config, backbone, 2)


def test_encoder_without_decoder_weights_is_enough(tmp_path: Path) -> None:
    """sentence-t5 and other T5 encoders are published without the weights of the decoder."""
    folder = family_folder("t5", tmp_path)
    with_decoder = load(folder)
    encoder_only = transformers.T5EncoderModel.from_pretrained(folder)
    encoder_only.save_pretrained(folder)
    weights = load(folder).encoder.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in with_decoder.encoder.state_dict().items())


def test_weights_with_nan_are_rejected(tmp_path: Path) -> None:
    folder = family_folder("electra", tmp_path)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias[0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="NaN or infinit"):
        load(folder)


@pytest.mark.parametrize("name", WORKING)
def test_run_folder_keeps_the_dropout_of_the_model(name: str, tmp_path: Path) -> None:
    """`backbone.dropout=0` in pretraining set the dropout of later runs that start from the encoder, too."""
    first = load(family_folder(name, tmp_path / "model"), dropout=0.0, attention_dropout=0.0)
    first.save(tmp_path / "run")
    default = load(tmp_path / "run", pretrained=False)
    assert dropout_of(default) == dropout_of(load(tmp_path / "model"))
    again = load(tmp_path / "run", pretrained=False, dropout=0.0, attention_dropout=0.0)
    assert dropout_of(again) == dropout_of(first)


def dropout_of(backbone: Backbone) -> dict[str, float]:
    """Return the dropout probabilities in an encoder's config and modules."""
    config = backbone.encoder.config.to_dict()
    modules = backbone.encoder.named_modules()
    return {key: value for key, value in config.items() if "drop" in key} | {
        path: module.p for path, module in modules if isinstance(module, torch.nn.Dropout)
    }


def test_settings_that_a_family_lacks_are_rejected(tmp_path: Path) -> None:
    backbones = {name: load(family_folder(name, tmp_path / name)) for name in ("distilbert", "gpt2", "mamba")}
    freeze(backbones["distilbert"], 1)
    trained = {name for name, weight in backbones["distilbert"].encoder.named_parameters() if weight.requires_grad}
    assert trained and all(name.startswith("transformer.layer.1.") for name in trained)
    with pytest.raises(UserError, match=r"layers of GPT2Model cannot be identified"):
        freeze(backbones["gpt2"], 1)
    recompute_activations(backbones["gpt2"])
    with pytest.raises(UserError, match=r"backbone\.dropout=0\.1: mamba has no such dropout"):
        load(tmp_path / "mamba", dropout=0.1)
    config = load(tmp_path / "gpt2", dropout=0.3, attention_dropout=0.0).encoder.config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.3, 0.3, 0.0)
    assert json.loads((tmp_path / "gpt2" / "config.json").read_text())["resid_pdrop"] == 0.1


def test_precision_in_which_an_encoder_fails_is_rejected(tmp_path: Path) -> None:
    """The first DeBERTa masks attention with the lowest float32 number, which bfloat16 cannot represent."""
    hardware = {name: sections.build_hardware(imdbcls.compose(f"precision={name}")) for name in ("fp32", "bf16")}
    backbone = load(family_folder("deberta", tmp_path / "deberta"))
    require_precision("small", backbone.encoder, hardware["fp32"])
    with pytest.raises(UserError, match=r"small: DebertaModel fails in bf16 \(.*\); set precision=fp32\."):
        require_precision("small", backbone.encoder, hardware["bf16"])
    require_precision("small", load(family_folder("xlnet", tmp_path / "xlnet")).encoder, hardware["bf16"])


def test_trial_pass_does_not_change_the_random_state(tmp_path: Path) -> None:
    """Initial weights and dropout masks for a seed are the same as without the trial pass."""
    folder = family_folder("electra", tmp_path)
    load(folder)  # the first load may import modules that draw random numbers
    torch.manual_seed(3)
    before = torch.get_rng_state()
    mode = load(folder).encoder.training
    assert torch.equal(before, torch.get_rng_state()) and mode is False, "state and mode must be unchanged"
