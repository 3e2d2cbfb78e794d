"""Measure simulated studies in parallel, and print tables of the results."""

import gc
from collections.abc import Callable
from multiprocessing.pool import Pool

import numpy as np
from numpy.typing import NDArray

CHUNK = 50  # studies per task of a process
Numbers = NDArray[np.float64]
Measure = Callable[[np.random.Generator, int], Numbers]  # numbers of each study (studies, K)


def chunk_of(task: tuple[Measure, int, int, int]) -> Numbers:
    """Measure some studies in a worker process."""
    measure, row, chunk, num_studies = task
    gc.freeze()  # statsmodels collects garbage on every call; it is much faster if imported modules are left out
    return measure(np.random.default_rng([19, row, chunk]), num_studies)


class Runner:
    """Measures simulated studies in parallel. The results do not depend on the number of processes."""

    def __init__(self, num_studies: int, pool: Pool) -> None:
        self.num_studies = num_studies
        self.row = 0
        self.pool = pool

    def __call__(self, measure: Measure, scale: float = 1.0) -> Numbers:
        """Return the numbers of all studies (studies, K). `scale` multiplies the number of studies."""
        self.row += 1
        total = max(2, round(self.num_studies * scale))
        sizes = [min(CHUNK, total - start) for start in range(0, total, CHUNK)]
        tasks = [(measure, self.row, chunk, size) for chunk, size in enumerate(sizes)]
        return np.concatenate(self.pool.map(chunk_of, tasks, chunksize=1))


def percent(values: Numbers) -> str:
    """Return the mean in percent, with its standard error over studies."""
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1) / len(values) ** 0.5:.1f}"


def print_header(*columns: str) -> None:
    print("\n| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1), flush=True)


def print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
