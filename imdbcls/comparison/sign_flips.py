"""Compute the p-value of a paired permutation test exactly, without sampling permutations."""

import numpy as np
from scipy.fft import irfft, next_fast_len
from scipy.optimize import brentq

NEGLIGIBLE = -50.0  # logarithm of a Fourier coefficient that is lost in double precision when it is added to 1


def p_of_sign_flips(terms: np.ndarray) -> float:
    """Return P(|sum of the terms with random signs| >= |sum of the terms|) for integer terms, exact up to rounding.

    Use exponential tilting (Esscher 1932): the tilted distribution has the observed sum as its mean, so most of its
    probability is close to the observed sum. A Fourier transform computes the tilted probabilities with absolute errors
    of about 1e-16. Undoing the tilt scales each probability and its error by the same factor, so a p of 1e-80 has as
    many correct digits as a p of 0.5. Random flips could not resolve p-values below 1 / (number of flips), but a
    correction for a thousand pairs needs such small p-values. If all terms have the same size, this is McNemar's exact
    test.
    """
    sizes, counts = np.unique(np.abs(terms[terms != 0]), return_counts=True)
    observed = abs(int(terms.sum()))
    if observed == 0:
        return 1.0
    unit = int(np.gcd.reduce(sizes))
    sizes, observed = sizes // unit, observed // unit
    total = int((sizes * counts).sum())
    if observed == total:
        return float(max(2.0 * 0.5 ** int(counts.sum()), np.finfo(float).tiny))
    tilt = tilt_to(observed, sizes, counts)

    # Z = (flipped sum - observed) / 2 is an integer with mean 0 under the tilt. The period of the transform covers all
    # values of Z, or at least values that have all but 1e-17 of the probability (Bernstein's inequality).
    deviation = np.sqrt((counts * sizes**2 / np.cosh(np.minimum(tilt * sizes, 300.0)) ** 2).sum()) / 2
    period = next_fast_len(int(min(total + 1, 24 * deviation + 60 * sizes.max())) + 2, real=True)
    probabilities_Z = irfft(transform(period, tilt, observed, sizes, counts).conj(), period)
    distances_Z = np.arange(min((total - observed) // 2, period // 2 - 1) + 1)
    beyond = (np.exp(-2 * tilt * distances_Z) * probabilities_Z[: len(distances_Z)]).sum()
    tilted = tilt * sizes
    log_scale = (counts * (tilted + np.log1p(np.exp(-2 * tilted)) - np.log(2))).sum() - tilt * observed
    return float(np.clip(2 * np.exp(log_scale) * beyond, np.finfo(float).tiny, 1.0))


def tilt_to(mean: int, sizes: np.ndarray, counts: np.ndarray) -> float:
    """Return the tilt under which the flipped sum has the given mean, which must be below the largest possible sum."""

    def excess(tilt: float) -> float:
        return float((counts * sizes * np.tanh(tilt * sizes)).sum() - mean)

    high = 1.0 / sizes.max()
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def transform(period: int, tilt: float, observed: int, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the Fourier coefficients of the tilted distribution of Z = (flipped sum - observed) / 2, for `irfft`.

    Negligible coefficients are set to zero.
    """
    indices = np.arange(period // 2 + 1)  # negligible coefficients are dropped below
    frequencies = 2 * np.pi / period * indices
    log_moduli, angles = np.zeros(len(indices)), -frequencies * observed / 2
    for i in np.argsort(-counts * sizes**2):  # largest variance first, so most coefficients become negligible early
        cosines = np.cos(frequencies * (sizes[i] / 2))
        sines = np.tanh(tilt * sizes[i]) * np.sin(frequencies * (sizes[i] / 2))
        log_moduli += counts[i] / 2 * np.log(np.maximum(cosines**2 + sines**2, 1e-300))
        angles += counts[i] * np.arctan2(sines, cosines)
        kept = log_moduli > NEGLIGIBLE
        if not kept.all():
            indices, frequencies = indices[kept], frequencies[kept]
            log_moduli, angles = log_moduli[kept], angles[kept]
    coefficients = np.zeros(period // 2 + 1, dtype=np.complex128)
    coefficients[indices] = np.exp(log_moduli + 1j * angles)
    return coefficients
