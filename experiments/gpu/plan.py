"""List the measurements in order of importance, and write their documents. This module does not import PyTorch."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEMS = ("imdbcls", "trainer")
COMPILED = ("imdbcls_compiled", "trainer_compiled")
FLASH = ("trainer_flash",)  # measured only if flash-attn is installed

# The number of tokens of an IMDB review (RoBERTa's tokenizer) is nearly log-normal, with median 224 and mean 302. With
# these parameters, 14 % of the documents exceed 512 tokens. In the corpus, 13.6 % do.
LOG_MEAN, LOG_DEVIATION = 5.41, 0.773
WORDS = ("film", "good", "bad", "the", "and", "of", "with", "story", "time", "very")
SPLITS = {"train": 1.0, "validation": 0.05, "test": 0.05}  # sizes, as multiples of the number of training documents


@dataclass(frozen=True)
class Cell:
    """One measurement: a system that trains a head with a batch size."""

    head: str
    batch_size: int
    system: str


def cells(heads: Sequence[str], batch_sizes: Sequence[int], compiled: bool, flash: bool) -> Iterator[Cell]:
    """Yield all measurements, starting with the two most important batch sizes.

    The other batch sizes follow. In both parts, the systems without `torch.compile` come first. Systems with the same
    head, batch size and use of `torch.compile` are adjacent.
    """
    groups = [(*SYSTEMS, *(FLASH if flash else ())), COMPILED if compiled else ()]
    for sizes, systems in itertools.product((batch_sizes[:2], batch_sizes[2:]), groups):
        for head, size, system in itertools.product(heads, sizes, systems):
            yield Cell(head, size, system)


def write_documents(folder: Path, count: int, scale: float = 1.0) -> list[str]:
    """Write random documents with the lengths of IMDB reviews, multiplied by `scale`. Return the settings to read them.

    Speed does not depend on the words. Except for the first word, each word is one token of RoBERTa's vocabulary.
    """
    draw = random.Random(0)
    for split, share in SPLITS.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(max(2, round(share * count))):
                length = max(3, round(scale * draw.lognormvariate(LOG_MEAN, LOG_DEVIATION)))
                text = " ".join([f"{split}{number}", *draw.choices(WORDS, k=length)])  # all documents differ
                file.write(json.dumps({"text": text, "label": ("negative", "positive")[number % 2]}) + "\n")
    return ["data=files", *(f"data.{split}={folder}/{split}.jsonl" for split in SPLITS)]
