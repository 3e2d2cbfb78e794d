"""How often two equally good heads are called different: `python experiments/null_simulation/simulate.py`.

Every simulated study has documents of very different difficulty that both groups share, a quirk per group (documents
that it happens to find easier, equal on average), and seeds with luck of their own. Prints the tables of the README,
which take about ten minutes (`--studies 100` for a look).
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
FILMS_N = np.arange(NUM_DOCUMENTS) // 5  # five reviews of each
SEEDS = (2, 3, 5, 10, 20)
VARIATIONS = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.05), (0.5, 0.1), (0.5, 0.2))  # quirk and luck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4_000, help="of each row (default: 4,000)")
    num_studies = parser.parse_args().studies
    if num_studies < 1:
        parser.error("--studies must be at least 1")
    print("| seeds | quirk | luck | interval | permutation | verdict | pooled |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_seeds in SEEDS:
        for quirk, luck in VARIATIONS:
            shares = " | ".join(f"{100 * share:.1f}" for share in rates(num_seeds, quirk, luck, num_studies))
            print(f"| {num_seeds} | {quirk} | {luck} | {shares} |", flush=True)
    print("\n| seeds | film | interval | permutation | verdict | interval, films ignored | permutation | verdict |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_seeds in (3, 5):
        for film in (0.25, 0.5):
            drawn, ignored = (
                rates(num_seeds, 0.5, 0.05, num_studies, film, films_N)[:3] for films_N in (FILMS_N, None)
            )
            shares = " | ".join(f"{100 * share:.1f}" for share in (*drawn, *ignored))
            print(f"| {num_seeds} | {film} | {shares} |", flush=True)


def rates(
    num_seeds: int,
    quirk: float,
    luck: float,
    num_studies: int,
    film: float = 0.0,
    clusters_N: np.ndarray | None = None,
) -> list[float]:
    """Over null comparisons, how often each rejects: interval, permutation test, verdict and pooled test.

    The first three know the documents' clusters where `clusters_N` is given.
    """
    generator = np.random.default_rng([num_seeds, int(100 * quirk), int(100 * luck), int(100 * film)])
    weights = document_weights(clusters_N)
    rejected = []
    for _ in range(num_studies):
        correct, other = simulate(generator, num_seeds, quirk, luck, film=film)
        estimate, p_permutation, significant = judge(correct, other, weights, clusters_N)
        rejected.append(
            (estimate.p_value() < LEVEL, p_permutation < LEVEL, significant, pooled_p(correct, other) < LEVEL)
        )
    return np.mean(rejected, axis=0).tolist()


def simulate(
    generator: np.random.Generator, num_seeds: int, quirk: float, luck: float, lead: float = 0.0, film: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of two groups, (S, N) each; `lead` is the first group's advantage on the latent scale.

    `film` is how much groups differ in which films' documents they find easy.
    """
    difficulty = generator.normal(2.2, 1.6, NUM_DOCUMENTS)
    groups = []
    for advantage in (lead, 0.0):
        latent = difficulty + advantage + quirk * generator.normal(size=NUM_DOCUMENTS)
        if film > 0:
            latent += film * generator.normal(size=FILMS_N[-1] + 1)[FILMS_N]
        latent = (
            latent
            + luck * generator.normal(size=(num_seeds, 1))
            + 0.8 * generator.normal(size=(num_seeds, NUM_DOCUMENTS))
        )
        groups.append((latent > 0).astype(np.float32))
    return groups[0], groups[1]


def judge(
    correct: np.ndarray, other: np.ndarray, weights: np.ndarray, clusters_N: np.ndarray | None = None
) -> tuple[Estimate, float, bool]:
    """The estimate, the permutation test's p and whether the verdict is "better".

    It is what `imdbcls.comparison.pairs` does with one pair, with the same document draws in every study, to save time.
    """
    draws = weights @ np.concatenate([correct, other]).T
    num_drawn = num_independent(NUM_DOCUMENTS, clusters_N)
    estimate = difference_over_seeds(correct.mean(1), other.mean(1), covariance_over(draws), num_drawn)
    p_permutation = permutation_p(correct, other, clusters_N)
    return estimate, p_permutation, is_significant(p_permutation, estimate.p_value(), seeds_varied=True)


def pooled_p(correct: np.ndarray, other: np.ndarray) -> float:
    """McNemar's test over seeds times documents as if they were independent: the mistake that this project refuses."""
    first_only, second_only = int((correct > other).sum()), int((other > correct).sum())
    return float(2 * stats.norm.sf(abs(first_only - second_only) / np.sqrt(max(1, first_only + second_only))))


def document_weights(clusters_N: np.ndarray | None = None) -> np.ndarray:
    """Each document's weight in each draw, (B, N), of documents or of whole clusters."""
    generator = np.random.default_rng(1)
    num_drawn = num_independent(NUM_DOCUMENTS, clusters_N)
    drawn = generator.multinomial(num_drawn, np.full(num_drawn, 1 / num_drawn), NUM_DRAWS)
    weights = drawn if clusters_N is None else drawn[:, clusters_N]
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
