"""Make repeated tests of small studies fast."""

import gc
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module")
def fast() -> Iterator[None]:
    """Use one thread for small matrices, and exclude modules from the garbage collections that statsmodels starts."""
    gc.freeze()
    with threadpool_limits(1):
        yield
    gc.unfreeze()
