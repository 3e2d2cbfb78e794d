"""Create local model folders like those on the hub: real architectures and tokenizers with tiny sizes."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2Tokenizer,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from imdbcls.data.sample import read_sample

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
# Larger initial weights than the usual 0.02, so that the effect of a layer is far larger than rounding errors.
SPREAD = 0.2
VOCABULARY = 400
# The model type in config.json of each hub backbone. distilroberta is a RoBERTa with half the layers.
FAMILIES = {
    "bert-base": "bert",
    "roberta-base": "roberta",
    "roberta-large": "roberta",
    "distilroberta-base": "roberta",
    "modernbert-base": "modernbert",
    "deberta-v3-base": "deberta-v2",
}


def make_folder(folder: Path, family: str) -> Path:
    """Save a small random model of a family, such as bert or deberta-v2, with its tokenizer."""
    make_model(family).save_pretrained(folder)
    make_tokenizer(family).save_pretrained(folder)
    return folder


def make_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": VOCABULARY, "initializer_range": SPREAD}
    config: PretrainedConfig
    if family == "roberta":
        # RoBERTa needs 514 positions for 512 tokens, because its positions begin at the padding id + 1.
        config = RobertaConfig(**sizes, max_position_embeddings=514, pad_token_id=1, layer_norm_eps=1e-5)
        return RobertaModel(config)
    if family == "modernbert":
        special = {"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
        config = ModernBertConfig(**sizes, **special, max_position_embeddings=1024, global_attn_every_n_layers=2)
        return ModernBertModel(config)
    if family == "deberta-v2":
        # Like deberta-v3-base: relative positions in buckets, which share the projections of the content.
        relative = {"relative_attention": True, "position_buckets": 256, "share_att_key": True}
        config = DebertaV2Config(
            **sizes, **relative, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", position_biased_input=False
        )
        return DebertaV2Model(config)
    if family == "albert":
        return AlbertModel(AlbertConfig(**sizes, embedding_size=32, hidden_act="gelu_new"))
    if family == "electra":
        return ElectraModel(ElectraConfig(**sizes, embedding_size=32))
    return BertModel(BertConfig(**sizes))


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the family's type, trained on the sample corpus, with the ids that `make_model` uses."""
    if family == "roberta":
        trained = train(
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            trainers.BpeTrainer,
            ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        return RobertaTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])
    if family == "modernbert":
        # ModernBERT has no tokenizer class. It uses a byte-level BPE with [CLS] and [SEP] around the text.
        specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
        splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trained = train(models.BPE(), splitter, trainers.BpeTrainer, specials, initial_alphabet=alphabet)
        backend = Tokenizer(models.BPE(trained["vocab"], [tuple(merge) for merge in trained["merges"]]))
        backend.pre_tokenizer = splitter
        backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
        roles = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **roles)
    if family == "deberta-v2":
        specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
        splitter = pre_tokenizers.Metaspace()
        trained = train(models.Unigram(), splitter, trainers.UnigramTrainer, specials, unk_token="[UNK]")
        return DebertaV2Tokenizer(vocab=[tuple(entry) for entry in trained["vocab"]], unk_id=3)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    splitter = pre_tokenizers.BertPreTokenizer()
    return BertTokenizer(vocab=train(models.WordPiece(), splitter, trainers.WordPieceTrainer, specials)["vocab"])


def train(model: Any, splitter: Any, trainer: Any, special_tokens: list[str], **options: Any) -> dict[str, Any]:
    """Return the `model` section of a trained tokenizer.json."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    learner = trainer(vocab_size=VOCABULARY, special_tokens=special_tokens, show_progress=False, **options)
    tokenizer.train_from_iterator(read_sample().train.texts, learner)
    return json.loads(tokenizer.to_str())["model"]
