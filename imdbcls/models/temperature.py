"""Temperature scaling (Guo et al. 2017, ICML): divide all logits of a model by one number, fitted on validation.

The predicted classes stay the same. The softmax of z / T equals the softmax of log(p) / T, where p is the softmax of z.
So a temperature can be fitted on recorded probabilities and applied to them.

Shape suffixes: N documents, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.printable import printable_line, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOWEST, HIGHEST = 0.01, 100.0  # limits of a temperature
FEWEST_DOCUMENTS = 20  # with fewer validation documents, the temperature stays 1
UNINFORMATIVE = 1e-9  # in nats; a loss that varies by less counts as independent of the temperature
STEP = 1e-6  # tolerance of the search, in the logarithm of the temperature


@dataclass(frozen=True)
class Temperature:
    """A temperature. `reason` says why it does not minimize the validation loss; None if it does."""

    value: float
    reason: str | None = None


def fit_temperature(labels_N: "NDArray[np.int64]", probabilities_NC: "NDArray[np.floating]") -> Temperature:
    """Return the temperature between `LOWEST` and `HIGHEST` with the lowest log loss on validation documents.

    The log loss is convex in 1 / T, so it has one minimum. In three cases, the temperature is 1, and `reason` says why:
    there are fewer than `FEWEST_DOCUMENTS` documents; all of them are classified correctly, so every lower temperature
    is better; or all classes of every document are equally probable.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    if len(labels_N) < FEWEST_DOCUMENTS:
        return Temperature(1.0, f"there are only {len(labels_N)} validation documents; {FEWEST_DOCUMENTS} are needed")
    logits_NC = logits_of(probabilities_NC)
    margins_NC = logits_NC - np.take_along_axis(logits_NC, labels_N[:, None], axis=1)
    others_NC = np.arange(logits_NC.shape[1]) != labels_N[:, None]
    if (margins_NC[others_NC] < 0).all():
        return Temperature(1.0, f"all {len(labels_N):,} validation documents are classified correctly")

    def log_loss(log_temperature: float) -> float:
        scaled_NC = margins_NC * np.exp(-log_temperature)
        return float(np.logaddexp.reduce(scaled_NC, axis=1).mean())

    limits = float(np.log(LOWEST)), float(np.log(HIGHEST))
    found = minimize_scalar(log_loss, bounds=limits, method="bounded", options={"xatol": STEP})
    if max(map(log_loss, limits)) - found.fun < UNINFORMATIVE:
        return Temperature(1.0, "all classes have the same probability in every validation document")
    best = min((found.x, *limits), key=log_loss)  # the search does not evaluate its limits
    if best in limits:
        side = "lower than" if best == limits[0] else "higher than"
        value = LOWEST if best == limits[0] else HIGHEST
        return Temperature(value, f"the best temperature is {side} the limit of {value:g}")
    return Temperature(float(np.exp(best)))


def apply_temperature(probabilities_NC: "NDArray[np.floating]", temperature: float) -> "NDArray[np.floating]":
    """Return the softmax of the logits divided by the temperature. A temperature of 1 changes nothing."""
    from scipy.special import softmax

    if temperature == 1:
        return probabilities_NC
    return softmax(logits_of(probabilities_NC) / temperature, axis=1).astype(probabilities_NC.dtype, copy=False)


def logits_of(probabilities_NC: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return the logarithms of the probabilities. The softmax of the logarithms gives the probabilities again.

    A probability of zero is replaced by the smallest positive normal float64.
    """
    import numpy as np

    return np.log(np.maximum(probabilities_NC.astype(np.float64), np.finfo(np.float64).tiny))


def recorded_temperature(result: Mapping[str, Any]) -> float | None:
    """Return the temperature in an untrusted `result.json`, or None if the file has none.

    Raise UserError if the temperature is not a number between `LOWEST` and `HIGHEST`.
    """
    if "temperature" not in result:
        return None
    value = result["temperature"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
        raise UserError(
            f"result.json has the invalid temperature {printable_line(shown(value))}; it must be a number from "
            f"{LOWEST:g} to {HIGHEST:g}. Restore result.json from a copy."
        )
    return float(value)
