"""Simulate studies of two equally good groups, and count how often each test rejects.

Run `python experiments/null_simulation/simulate.py`. It prints the tables of the README and takes about ten minutes;
`--studies 100` is faster but less precise.

In a simulated study, documents differ in difficulty, and a document is equally difficult for both groups. In addition,
each group has a random interaction with each document, and each seed has a random effect on all documents. The
interactions and the seed effects are zero on average.
"""

import argparse

import numpy as np
from scipy import stats

from imdbcls.comparison.statistics import (
    Estimate,
    covariance_over,
    difference_over_seeds,
    num_independent,
    permutation_p,
)
from imdbcls.comparison.verdicts import LEVEL, is_significant

NUM_DRAWS = 500
NUM_DOCUMENTS = 1_200
FILMS_N = np.arange(NUM_DOCUMENTS) // 5  # five reviews per film
SEEDS = (2, 3, 5, 10, 20)
VARIATIONS = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.05), (0.5, 0.1), (0.5, 0.2))  # interaction SD and seed SD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4_000, help="studies per row (default: 4,000)")
    num_studies = parser.parse_args().studies
    if num_studies < 1:
        parser.error("--studies must be at least 1")
    print("| seeds | interaction SD | seed SD | interval | permutation | verdict | pooled |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_seeds in SEEDS:
        for interaction_sd, seed_sd in VARIATIONS:
            found = rejection_rates(num_seeds, interaction_sd, seed_sd, num_studies)
            cells = " | ".join(f"{100 * rate:.1f}" for rate in found)
            print(f"| {num_seeds} | {interaction_sd} | {seed_sd} | {cells} |", flush=True)
    print("\n| seeds | film SD | interval | permutation | verdict | interval, films ignored | permutation | verdict |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_seeds in (3, 5):
        for film_sd in (0.25, 0.5):
            clustered, ignored = (
                rejection_rates(num_seeds, 0.5, 0.05, num_studies, film_sd, films_N)[:3] for films_N in (FILMS_N, None)
            )
            cells = " | ".join(f"{100 * rate:.1f}" for rate in (*clustered, *ignored))
            print(f"| {num_seeds} | {film_sd} | {cells} |", flush=True)


def rejection_rates(
    num_seeds: int,
    interaction_sd: float,
    seed_sd: float,
    num_studies: int,
    film_sd: float = 0.0,
    clusters_N: np.ndarray | None = None,
) -> list[float]:
    """Return how often the interval, the permutation test, the verdict and the pooled test reject, as fractions.

    The two groups are equally good, so every rejection is a false positive. If `clusters_N` is given, all tests except
    the pooled test use these clusters.
    """
    generator = np.random.default_rng([num_seeds, int(100 * interaction_sd), int(100 * seed_sd), int(100 * film_sd)])
    weights = document_weights(clusters_N)
    rejected = []
    for _ in range(num_studies):
        correct, other = simulate(generator, num_seeds, interaction_sd, seed_sd, film_sd=film_sd)
        estimate, p_permutation, significant = evaluate_pair(correct, other, weights, clusters_N)
        rejected.append(
            (estimate.p_value() < LEVEL, p_permutation < LEVEL, significant, pooled_p(correct, other) < LEVEL)
        )
    return np.mean(rejected, axis=0).tolist()


def simulate(
    generator: np.random.Generator,
    num_seeds: int,
    interaction_sd: float,
    seed_sd: float,
    lead: float = 0.0,
    film_sd: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcomes (S, N) of two groups, 1 for right and 0 for wrong.

    All parameters are on the latent scale. `interaction_sd`, `seed_sd` and `film_sd` are the standard deviations of the
    interaction of group and document, of the seed effects, and of the interaction of group and film. `lead` is the
    advantage of the first group.
    """
    difficulty = generator.normal(2.2, 1.6, NUM_DOCUMENTS)
    groups = []
    for advantage in (lead, 0.0):
        latent = difficulty + advantage + interaction_sd * generator.normal(size=NUM_DOCUMENTS)
        if film_sd > 0:
            latent += film_sd * generator.normal(size=FILMS_N[-1] + 1)[FILMS_N]
        latent = (
            latent
            + seed_sd * generator.normal(size=(num_seeds, 1))
            + 0.8 * generator.normal(size=(num_seeds, NUM_DOCUMENTS))
        )
        groups.append((latent > 0).astype(np.float32))
    return groups[0], groups[1]


def evaluate_pair(
    correct: np.ndarray, other: np.ndarray, weights: np.ndarray, clusters_N: np.ndarray | None = None
) -> tuple[Estimate, float, bool]:
    """Return the estimate, the p-value of the permutation test, and whether the verdict is "better".

    The result is that of `imdbcls.comparison.pairs` for one pair. This function is faster, because all studies use the
    same bootstrap resamples (`weights`).
    """
    draws = weights @ np.concatenate([correct, other]).T
    num_units = num_independent(NUM_DOCUMENTS, clusters_N)
    estimate = difference_over_seeds(correct.mean(1), other.mean(1), covariance_over(draws), num_units)
    p_permutation = permutation_p(correct, other, clusters_N)
    return estimate, p_permutation, is_significant(p_permutation, estimate.p_value(), seeds_varied=True)


def pooled_p(correct: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value of McNemar's test over all seeds and documents, which wrongly treats them as independent."""
    first_only, second_only = int((correct > other).sum()), int((other > correct).sum())
    return float(2 * stats.norm.sf(abs(first_only - second_only) / np.sqrt(max(1, first_only + second_only))))


def document_weights(clusters_N: np.ndarray | None = None) -> np.ndarray:
    """Return the weight of each document in each bootstrap resample (B, N), of documents or of entire clusters."""
    generator = np.random.default_rng(1)
    num_units = num_independent(NUM_DOCUMENTS, clusters_N)
    counts = generator.multinomial(num_units, np.full(num_units, 1 / num_units), NUM_DRAWS)
    weights = counts if clusters_N is None else counts[:, clusters_N]
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
