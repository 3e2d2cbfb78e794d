"""Files of predictions, as other tools write them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def predictions_frame(
    systems: Sequence[str] = ("svm", "bert"),
    seeds: Sequence[int] = (0, 1, 2),
    num_documents: int = 200,
    classes: Sequence[str] = ("neg", "pos"),
    probabilities: bool = True,
    random_seed: int = 5,
) -> pd.DataFrame:
    """Return one row per system, seed and document. The first system is right less often than the last."""
    generator = np.random.default_rng(random_seed)
    labels_N = generator.integers(0, len(classes), num_documents)
    difficulty_N = generator.normal(size=num_documents)
    frames = []
    for skill, system in enumerate(systems):
        for seed in seeds:
            logits_NC = generator.normal(size=(num_documents, len(classes)))
            logits_NC[np.arange(num_documents), labels_N] += 0.8 + 0.9 * skill + difficulty_N
            shares_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
            frame = pd.DataFrame(
                {
                    "system": system,
                    "seed": seed,
                    "id": [f"d{i:04d}" for i in range(num_documents)],
                    "label": np.array(classes)[labels_N],
                    "prediction": np.array(classes)[shares_NC.argmax(axis=1)],
                    "cluster": [f"film {i // 4}" for i in range(num_documents)],
                }
            )
            if probabilities:
                for name, share_N in zip(classes, shares_NC.T, strict=True):
                    frame[f"probability_{name}"] = share_N
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)
