"""A tokenizer with a few words, and documents that consist of them."""

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from imdbcls.data.documents import Documents

WORDS = [f"w{number}" for number in range(200)]


def make_tokenizer(**options: object) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{"pad_token": "[PAD]", "unk_token": "[UNK]", **options})


def make_documents(num_documents: int = 50) -> Documents:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(num_documents)]
    return Documents([str(row) for row in range(num_documents)], texts, np.arange(num_documents) % 2)
