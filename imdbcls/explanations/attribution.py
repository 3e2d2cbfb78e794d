"""Integrated gradients of a logit with respect to the token embeddings (Sundararajan et al. 2017, section 3).

Shape suffixes: S steps, W windows, T tokens in each padded row, D embedding size, C classes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imdbcls.data.batch import Batch
from imdbcls.errors import UserError
from imdbcls.models.classifier import Classifier

FIRST_STEPS, MOST_STEPS = 32, 1024
# The allowed completeness error, as a share of the difference between the logits and as an absolute value. The larger
# of the two limits applies.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.01, 0.001
PASS_TOKENS = 8192  # tokens in one pass of the model


@dataclass(frozen=True)
class Attribution:
    """The attribution of the logit of class `target` to the tokens.

    `scores_WT` are the integrated gradients, summed over the embedding dimensions (float64, on the CPU). The
    exact scores would sum to the logit of the text minus the logit of the baseline. `error` is the absolute difference
    from this value.
    """

    target: int
    scores_WT: Tensor
    logits_C: Tensor
    baseline_logits_C: Tensor
    error: float
    tolerance: float
    steps: int


def integrated_gradients(model: Classifier, batch: Batch, baseline_ids_WT: Tensor, target: int | None) -> Attribution:
    """Attribute the logit of a class, by default of the most probable class, to the tokens of one document.

    The path is the straight line from the embeddings of the baseline to the embeddings of the document. The positions
    and the mask do not change along the path. The integral is a Gauss-Legendre sum. The number of steps is doubled
    until `Attribution.error` is within the tolerance, or until `MOST_STEPS` is reached.
    """
    method = require_captum().IntegratedGradients(lambda embeddings_SWTD: logits_of(model, batch, embeddings_SWTD))
    embed: Any = model.encoder.get_input_embeddings()  # type: ignore[operator]
    embeddings_1WTD, baseline_1WTD = embed(batch.input_ids_BT).unsqueeze(0), embed(baseline_ids_WT).unsqueeze(0)
    with torch.no_grad():
        logits_C = logits_of(model, batch, embeddings_1WTD)[0]
        baseline_logits_C = logits_of(model, batch, baseline_1WTD)[0]
    chosen = int(logits_C.argmax()) if target is None else target
    difference = float(logits_C[chosen]) - float(baseline_logits_C[chosen])
    tolerance = max(RELATIVE_TOLERANCE * abs(difference), ABSOLUTE_TOLERANCE)
    steps, error = FIRST_STEPS, math.inf
    while True:
        gradients_1WTD = method.attribute(
            embeddings_1WTD,
            baseline_1WTD,
            target=chosen,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(PASS_TOKENS // batch.input_ids_BT.numel(), 1),
        )
        scores_WT = gradients_1WTD[0].detach().cpu().double().sum(dim=2)  # MPS has no float64
        error = abs(float(scores_WT.sum()) - difference)
        if error <= tolerance or steps >= MOST_STEPS:
            return Attribution(chosen, scores_WT, logits_C, baseline_logits_C, error, tolerance, steps)
        steps *= 2


def logits_of(model: Classifier, batch: Batch, embeddings_SWTD: Tensor) -> Tensor:
    """Return logits_SC of one document. The embeddings of step s replace the document's token embeddings."""
    num_steps, num_windows = embeddings_SWTD.shape[:2]
    documents = torch.arange(num_steps, device=embeddings_SWTD.device).repeat_interleave(num_windows)
    with replaced_embeddings(model.encoder, embeddings_SWTD.flatten(0, 1)):
        return model(
            batch.input_ids_BT.repeat(num_steps, 1),
            batch.mask_BT.repeat(num_steps, 1),
            documents if num_windows > 1 else None,
            num_steps,
        )


@contextmanager
def replaced_embeddings(encoder: Any, embeddings_BTD: Tensor) -> Iterator[None]:
    """Make the encoder's table of token embeddings return `embeddings_BTD` within the context.

    The encoder still gets token ids, because some encoders compute positions from them. Raise UserError if the encoder
    does not read the embeddings of all tokens from this table in one call.
    """
    is_replaced: list[bool] = []  # for each call

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        is_replaced.append(output.shape == embeddings_BTD.shape)
        return embeddings_BTD if is_replaced[-1] else output

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
    if is_replaced != [True]:
        raise UserError(
            f"{type(encoder).__name__} cannot be explained, because it does not look up its token embeddings exactly "
            "once per pass. Explain a run with another backbone."
        )


def require_captum() -> Any:
    """Import and return `captum.attr`; raise UserError if captum is not installed."""
    try:
        import captum.attr
    except ImportError as error:
        raise UserError("Explanations need the package captum, which is not installed: pip install captum.") from error
    return captum.attr
