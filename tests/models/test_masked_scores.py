"""The metrics of a masked language model are computed from the scores of the documents."""

import math

import numpy as np
import pytest

from imdbcls.errors import UserError
from imdbcls.models.masked_scores import masked_metrics


def test_metrics_are_means_over_the_masked_tokens() -> None:
    found = masked_metrics(np.array([[2.0, 1, 3], [4.0, 0, 1]]))
    assert found == {"loss": 1.5, "perplexity": pytest.approx(math.exp(1.5)), "accuracy": 0.25}


@pytest.mark.parametrize("num_documents", [0, 2])
def test_documents_without_masked_tokens_are_one_sentence(num_documents: int) -> None:
    with pytest.raises(UserError, match=f"No token of the {num_documents} validation documents is masked"):
        masked_metrics(np.zeros((num_documents, 3)))
