"""Explain one prediction of a finished run.

Shape suffixes: W windows, T tokens in each padded row, D hidden size, C classes.
"""

import threading
from typing import Any

import torch
from torch import Tensor

from imdbcls.data.batch import Batch
from imdbcls.ensemble import Ensemble
from imdbcls.errors import UserError
from imdbcls.explanations.attribution import integrated_gradients, require_captum
from imdbcls.explanations.explanation import Explanation
from imdbcls.explanations.mean import mean_explanation
from imdbcls.explanations.reading import Reading, read
from imdbcls.finished import FinishedModel
from imdbcls.finished_run import FinishedRun
from imdbcls.models.classifier import Classifier
from imdbcls.printable import is_unicode, shown

# An explanation replaces the model's embeddings during its passes, so only one thread may explain at a time.
_lock = threading.Lock()


def explain(run: FinishedRun | Ensemble, text: str, target: str | None = None) -> Explanation:
    """Explain the prediction of a run or an ensemble for `text`: how much each word moved the logit of a class.

    `target` is the class to explain, by default the most probable class. The model runs in float32 and without compiled
    kernels. Its probabilities can therefore differ from the result of `predict` by rounding, especially if the run's
    precision is bf16. The first call loads the model. Calls from several threads run one after another.

    Raise UserError if captum is not installed, `text` is empty or not a valid string, `target` is not a class of the
    run, the run classifies pairs of texts, its backbone cannot be explained, the model's output is not finite, or the
    runs of an ensemble do not read the same words.
    """
    require_captum()
    require_single_texts(run.runs[0] if isinstance(run, Ensemble) else run)
    if not isinstance(text, str) or not text.strip() or not is_unicode(text):
        raise UserError("explain expects a text: valid Unicode with at least one character that is not white space.")
    if target is not None and target not in run.label_names:
        raise UserError(f"{shown(target)} is not a class of this run: choose {', '.join(run.label_names)}.")
    if isinstance(run, Ensemble):
        target = run.predict([text]).names[0] if target is None else target
        found = [explain(each, text, target) for each in run.runs]
        return mean_explanation(found, [each.temperature for each in run.runs], [each.folder for each in run.runs])
    with _lock, torch.inference_mode(False), torch.enable_grad():
        return _explain(run, text, None if target is None else run.label_names.index(target))


def require_single_texts(run: FinishedRun) -> None:
    """Raise UserError if a run classifies pairs of texts."""
    if run.config.data.reads_pairs:
        raise UserError(
            f"{run.folder} classifies pairs of texts (data.pair_column), which cannot be explained. Train a run with "
            "joined texts instead (data.text_column=[first,second])."
        )


def _explain(run: FinishedRun, text: str, target: int | None) -> Explanation:
    finished = run.plain_model
    reading = read(text, finished)
    batch = reading.batch.to(finished.hardware.device)
    token, substitute = baseline_token(finished)
    baseline_ids_WT = torch.where((reading.word_WT >= 0).to(batch.mask_BT.device), substitute, batch.input_ids_BT)
    finished.hardware.set_flags()
    # Disable cuDNN, which computes no gradients for an LSTM in evaluation mode.
    with torch.backends.cudnn.flags(enabled=finished.hardware.device.type != "cuda"):
        found = integrated_gradients(finished.model, batch, baseline_ids_WT, target)
    if not (found.logits_C.isfinite().all() and found.scores_WT.isfinite().all()):
        raise UserError(
            f"{run.folder}: the model's output is NaN or infinite, because its weights are too large or damaged. Train "
            "the run again, for example with a lower lr."
        )
    pooling, special = pooling_of(finished.model, batch, reading)
    probabilities, of_baseline = (
        dict(zip(run.label_names, torch.softmax(logits_C.double() / run.temperature, dim=0).tolist(), strict=True))
        for logits_C in (found.logits_C.cpu(), found.baseline_logits_C.cpu())
    )
    return Explanation(
        text=text,
        words=tuple(text[start:end] for start, end in reading.spans),
        spans=tuple(reading.spans),
        scores=tuple(reading.sum_by_word(found.scores_WT).tolist()),
        label=run.label_names[int(found.logits_C.argmax())],
        probabilities=probabilities,
        target=run.label_names[found.target],
        logit=float(found.logits_C[found.target]),
        baseline_logit=float(found.baseline_logits_C[found.target]),
        baseline=token,
        baseline_probabilities=of_baseline,
        completeness_error=found.error,
        tolerance=found.tolerance,
        steps=found.steps,
        pooling=pooling,
        special_pooling=special,
        unread=tuple(reading.unread),
        num_tokens=reading.num_tokens,
        num_read=reading.num_read,
        num_windows=len(batch.mask_BT),
    )


def baseline_token(finished: FinishedModel) -> tuple[str, int]:
    """Return the token that replaces all words in the baseline: the mask token, or padding if there is none."""
    tokenizer: Any = finished.backbone.tokenizer
    if tokenizer.mask_token_id is not None:
        return str(tokenizer.mask_token), int(tokenizer.mask_token_id)
    return str(tokenizer.pad_token), int(tokenizer.pad_token_id)


@torch.no_grad()
def pooling_of(model: Classifier, batch: Batch, reading: Reading) -> tuple[tuple[float, ...] | None, float | None]:
    """Return the pooling weight of each word and of the special tokens; (None, None) if the head has no such weights.

    The logits are an average over windows, so each pooling weight is multiplied by its window's share in this average.
    """
    weigh = getattr(model.head, "pooling_weights", None)
    if weigh is None:
        return None, None
    hidden = model.encode(batch.input_ids_BT, batch.mask_BT, batch.token_indices_N)
    weights_WT: Tensor = weigh(hidden, batch.mask_BT).cpu().double()
    lengths_W = batch.mask_BT.sum(dim=1).cpu().double()
    weights_WT = weights_WT * (lengths_W / lengths_W.sum()).unsqueeze(1)
    words = reading.sum_by_word(weights_WT)
    return tuple(words.tolist()), float(weights_WT.sum() - words.sum())
