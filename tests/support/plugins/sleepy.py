"""A head whose speed does not depend on the machine: it waits a fixed time for each document."""

import time

from torch import Tensor

from imdbcls.heads.cls import ClsHead

SECONDS = 0.02  # per document


class SleepyHead(ClsHead):
    """The `cls` head with a pause."""

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        time.sleep(SECONDS * len(hidden_BTD))
        return super().forward(hidden_BTD, mask_BT)
