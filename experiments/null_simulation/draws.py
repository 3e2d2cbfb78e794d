"""Draw studies: the outcomes of N documents for heads whose accuracies are known exactly.

A prediction is right if a normal variable is positive. The variable is the sum of the difficulty of the document, which
all heads share, and the effects of head x document, head x film, seed, and seed x document. Its mean is set such that
every head has exactly the given expected accuracy, whatever the spread of its seeds.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from imdbcls.comparison.statistics import Sample, Units

ACCURACY = 0.88
DIFFICULTY_SD, HEAD_SD, RESIDUAL_SD = 1.6, 0.5, 0.8
# Points of accuracy per unit of the normal variable, to convert a spread between seeds that is given in points.
POINTS = 100 * float(norm.pdf(ndtri(ACCURACY))) / (DIFFICULTY_SD**2 + HEAD_SD**2 + RESIDUAL_SD**2) ** 0.5


@dataclass(frozen=True)
class Setting:
    """The heads of a study, and its documents. Each tuple has one entry per head."""

    num_seeds: tuple[int, ...]
    seed_sds: tuple[float, ...]  # standard deviation between seeds, in points
    num_documents: int = 5_000
    behind: tuple[float, ...] = ()  # points below the best accuracy; empty: all heads are equal
    # Probability that a seed predicts only one class, which is right for half of the documents.
    collapse: tuple[float, ...] = ()
    num_films: int = 0  # films have unequal sizes; 0: documents are independent
    film_sd: float = 0.0  # standard deviation of the interaction of head and film, in units of the normal variable
    head_sd: float = HEAD_SD  # standard deviation of the interaction of head and document
    residual_sd: float = RESIDUAL_SD  # standard deviation of the interaction of seed and document

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """The expected accuracy of each head."""
        healthy = ACCURACY - np.array(self.behind or [0.0] * len(self.num_seeds)) / 100
        rates = np.array(self.collapse or [0.0] * len(self.num_seeds))
        return (1 - rates) * healthy + rates * 0.5

    @cached_property
    def films_N(self) -> NDArray[np.int64] | None:
        """The film of each document. Sizes are lognormal: the largest of 20 films has a fifth of all documents."""
        if self.num_films == 0:
            return None
        sizes = np.exp(ndtri((np.arange(self.num_films) + 0.5) / self.num_films))
        ends = np.ceil(np.cumsum(sizes) / sizes.sum() * self.num_documents - 1e-6)
        return np.searchsorted(ends, np.arange(self.num_documents), side="right")

    def units(self) -> Units:
        return Units(self.num_documents, self.films_N)


def draw_outcomes(setting: Setting, generator: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Return the outcomes (S, N) of every head."""
    num_documents = setting.num_documents
    difficulty_N = DIFFICULTY_SD * generator.standard_normal(num_documents, dtype=np.float32)
    outcomes = []
    for head, (num_seeds, sd) in enumerate(zip(setting.num_seeds, setting.seed_sds, strict=True)):
        seed_sd = sd / POINTS
        variance = DIFFICULTY_SD**2 + setting.head_sd**2 + setting.residual_sd**2 + setting.film_sd**2 + seed_sd**2
        target = ACCURACY - (setting.behind[head] / 100 if setting.behind else 0.0)
        score_N = difficulty_N + np.float32(ndtri(target) * variance**0.5)
        score_N += np.float32(setting.head_sd) * generator.standard_normal(num_documents, dtype=np.float32)
        if setting.films_N is not None:
            of_film = setting.film_sd * generator.standard_normal(setting.num_films, dtype=np.float32)
            score_N += of_film[setting.films_N]
        shifts_S = seed_sd * generator.standard_normal(num_seeds, dtype=np.float32)
        noise_SN = np.float32(setting.residual_sd) * generator.standard_normal(
            (num_seeds, num_documents), dtype=np.float32
        )
        correct_SN = noise_SN > -(score_N + shifts_S[:, None])
        if setting.collapse:
            for seed in np.flatnonzero(generator.random(num_seeds) < setting.collapse[head]):
                correct_SN[seed] = np.arange(num_documents) % 2 == 0
        outcomes.append(correct_SN)
    return outcomes


def sample_of_outcomes(correct_SN: NDArray[np.bool_], units: Units) -> Sample:
    """Return the accuracies of a head as a sample. `imdbcls.comparison.samples.sample_of` does this for predictions."""
    values_S = correct_SN.mean(axis=1)
    return Sample.of(values_S, (correct_SN - values_S[:, None].astype(np.float32)).T, units, change=1.0)


def draw_samples(setting: Setting, generator: np.random.Generator, units: Units) -> list[Sample]:
    return [sample_of_outcomes(correct_SN, units) for correct_SN in draw_outcomes(setting, generator)]
