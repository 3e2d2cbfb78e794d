"""Explain a prediction: which words of a text moved the decision of a finished run.

`explain(run, text)` returns an `Explanation`. The scores are integrated gradients (Sundararajan et al. 2017).
"""

from imdbcls.explanations.explaining import explain
from imdbcls.explanations.explanation import Explanation

__all__ = ["Explanation", "explain"]
