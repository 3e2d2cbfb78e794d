"""A temperature fits the validation labels best, changes no predicted class, and is 1 if it cannot be fitted."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from imdbcls.errors import UserError
from imdbcls.models.temperature import (
    FEWEST_DOCUMENTS,
    HIGHEST,
    LOWEST,
    apply_temperature,
    fit_temperature,
    recorded_temperature,
)


def drawn(num_documents: int, num_classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels that are drawn from the softmax of logits, and these logits times `sharpness`."""
    generator = np.random.default_rng(0)
    logits_NC = generator.normal(0, 2, (num_documents, num_classes))
    noise_NC = generator.gumbel(size=logits_NC.shape)
    return (logits_NC + noise_NC).argmax(axis=1), sharpness * logits_NC


@pytest.mark.parametrize(("num_classes", "sharpness"), [(2, 3.0), (2, 0.4), (5, 1.0), (5, 7.0)])
def test_temperature_undoes_a_factor_and_has_the_lowest_loss(num_classes: int, sharpness: float) -> None:
    labels_N, logits_NC = drawn(20_000, num_classes, sharpness)
    found = fit_temperature(labels_N, softmax(logits_NC, axis=1))
    assert found.reason is None and found.value == pytest.approx(sharpness, rel=0.04)

    def loss(temperature: float) -> float:
        return -log_softmax(logits_NC / temperature, axis=1)[np.arange(len(labels_N)), labels_N].mean()

    assert all(loss(found.value) < loss(found.value * factor) for factor in (0.98, 0.999, 1.001, 1.02))


def test_scaled_probabilities_are_the_softmax_of_scaled_logits() -> None:
    _, logits_NC = drawn(50, 3, 4.0)
    probabilities_NC = softmax(logits_NC, axis=1)
    scaled_NC = apply_temperature(probabilities_NC, 2.5)
    np.testing.assert_allclose(scaled_NC, softmax(logits_NC / 2.5, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(scaled_NC.argmax(axis=1), probabilities_NC.argmax(axis=1))
    np.testing.assert_array_equal(apply_temperature(probabilities_NC, 1.0), probabilities_NC)
    assert apply_temperature(np.array([[0.0, 1.0]]), 0.5).tolist() == [[0.0, 1.0]], "an underflow must not give NaN"


def test_no_temperature_can_be_fitted() -> None:
    num_documents = 5 * FEWEST_DOCUMENTS
    right_N = np.arange(num_documents) % 2
    confident_NC = np.where(right_N[:, None] == np.arange(2), 0.9, 0.1)
    for labels_N, probabilities_NC, reason in (
        (right_N[: FEWEST_DOCUMENTS - 1], 1 - confident_NC[: FEWEST_DOCUMENTS - 1], "only 19 validation documents"),
        (right_N, confident_NC, "all 100 validation documents are classified correctly"),
        (right_N, np.full((num_documents, 2), 0.5), "same probability"),
    ):
        found = fit_temperature(labels_N, probabilities_NC)
        assert found.value == 1 and found.reason is not None and reason in found.reason


def test_temperature_is_bounded() -> None:
    labels_N = np.arange(100) % 2
    wrong_NC = np.where(labels_N[:, None] == np.arange(2), 0.1, 0.9)
    found = fit_temperature(labels_N, wrong_NC)
    assert found.value == HIGHEST and found.reason == "the best temperature is higher than the limit of 100"
    constant_NC = np.tile([0.7, 0.3], (100, 1))  # if classes are equally frequent, uniform is best
    assert fit_temperature(labels_N, constant_NC).value == HIGHEST
    timid_NC = np.where(labels_N[:, None] == np.arange(2), 0.5001, 0.4999)
    timid_NC[0] = timid_NC[0][::-1]  # one document is wrong, so that a temperature can be fitted
    found = fit_temperature(labels_N, timid_NC)
    assert found.value == LOWEST and found.reason == "the best temperature is lower than the limit of 0.01"


def test_recorded_temperature_is_checked() -> None:
    assert recorded_temperature({}) is None and recorded_temperature({"temperature": 2}) == 2.0
    for value in (True, "1", 0, -1, 1e9, float("nan"), None):
        with pytest.raises(UserError, match=r"invalid temperature .* from 0\.01 to 100"):
            recorded_temperature({"temperature": value})
