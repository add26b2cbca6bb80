"""Probability of detection (POD) over a defect's size and contrast, from which of many defects were found.

The hit/miss model of MIL-HDBK-1823A (2009), appendix G, after Berens, "NDE reliability data analysis" (ASM
Handbook 17, 1989): the log odds of being found are linear in the logarithms of size and contrast. The figures
that are asked
for: a90, the size found with 90 % probability; and a90/95, the size of which that is true with 95 %
confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

PROBABILITY = 0.90
CONFIDENCE = 0.95
LEAST_DEFECTS = 20  # fewer say nothing of three parameters
LEAST_OF_A_KIND = 3  # found, and missed: else the data bound a90 from one side only
MOST_STEPS = 100
LONGEST_STEP = 3.0  # of a parameter, which are log odds
CONVERGED = 1e-8

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """log(p / (1 − p)) = intercept + by_size · ln size + by_contrast · ln contrast."""

    intercept: float
    by_size: float
    by_contrast: float
    covariance: tuple[tuple[float, ...], ...]  # (3, 3), of the three in this order
    defects: int
    found: int

    def probability(self, size: float, contrast: float) -> float:
        """The share of such defects that is found."""
        odds = self.intercept + self.by_size * math.log(size) + self.by_contrast * math.log(contrast)
        return 1 / (1 + math.exp(-min(max(odds, -700.0), 700.0)))

    def size_at(self, contrast: float, probability: float = PROBABILITY) -> float | None:
        """The size that is found with that probability; None where larger ones are not found more often."""
        if self.by_size <= 0:
            return None
        return _size((_logit(probability) - self._at(contrast)) / self.by_size)

    def size_proved(
        self, contrast: float, probability: float = PROBABILITY, confidence: float = CONFIDENCE
    ) -> float | None:
        """From this size on, the lower confidence limit of the probability is at least that (a90/95).

        The limit is Wald's, of the log odds; where it crosses is a quadratic equation (Fieller 1954). None
        where it never does: the defects do not bound the size.
        """
        middle = self.size_at(contrast, probability)
        if middle is None:
            return None
        z2 = NormalDist().inv_cdf(confidence) ** 2
        v = np.array(self.covariance)
        at, slope = np.array([1.0, 0.0, math.log(contrast)]), np.array([0.0, 1.0, 0.0])
        gap = self._at(contrast) - _logit(probability)
        # (gap + by_size t)² = z² (at + slope t)ᵀ V (at + slope t)
        a = self.by_size**2 - z2 * float(slope @ v @ slope)
        b = 2 * (gap * self.by_size - z2 * float(at @ v @ slope))
        c = gap**2 - z2 * float(at @ v @ at)
        if a <= 0:
            return None
        return _size((-b + math.sqrt(max(0.0, b * b - 4 * a * c))) / (2 * a))

    def _at(self, contrast: float) -> float:
        return self.intercept + self.by_contrast * math.log(contrast)


def fit_detection(
    sizes: Sequence[float], contrasts: Sequence[float], found: Sequence[bool]
) -> Detection | None:
    """The model of defects with their sizes and contrasts, all above 0; None where they do not bound it.

    Newton's method on the likelihood with Jeffreys' penalty (Firth, "Bias reduction of maximum likelihood
    estimates", Biometrika 1993). Without it the slope grows beyond all bounds where one curve separates found
    from missed, as it may for a detector without noise of its own; with it there is always a finite answer
    (Heinze & Schemper 2002), and with many defects it is the likelihood's.
    """
    hits = np.asarray(found, np.float64)
    counts = len(hits), int(hits.sum())
    if counts[0] < LEAST_DEFECTS or min(counts[1], counts[0] - counts[1]) < LEAST_OF_A_KIND:
        return None
    x = np.column_stack([np.ones(len(hits)), np.log(sizes), np.log(contrasts)])
    varied = x.std(axis=0) > 1e-9
    varied[0] = True
    if not varied[1]:
        return None
    fitted = _newton(x[:, varied], hits)
    if fitted is None:
        return None
    parameters, covariance = np.zeros(3), np.zeros((3, 3))
    parameters[varied] = fitted[0]
    covariance[np.ix_(varied, varied)] = fitted[1]
    rows = tuple(tuple(row) for row in covariance.tolist())
    intercept, by_size, by_contrast = parameters.tolist()
    return Detection(intercept, by_size, by_contrast, rows, *counts)


def _newton(x: Floats, hits: Floats) -> tuple[Floats, Floats] | None:
    """(parameters, covariance) at the maximum of the penalised likelihood; None where there is none to be
    had.

    Columns are centred and scaled first, which changes neither the model nor, but for a constant, the
    penalty.
    """
    middle, spread = x.mean(axis=0), x.std(axis=0)
    middle[0], spread[0] = 0.0, 1.0
    u = (x - middle) / spread
    beta = np.zeros(u.shape[1])
    value = _penalised(u, hits, beta)
    for _ in range(MOST_STEPS):
        p = _probability(u @ beta)
        information = _information(u, p)
        try:
            inverse = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            return None
        weight = p * (1 - p)
        leverage = weight * np.einsum("ij,jk,ik->i", u, inverse, u)
        step = inverse @ (u.T @ (hits - p + leverage * (0.5 - p)))
        step *= min(1.0, LONGEST_STEP / max(1e-12, float(np.abs(step).max())))
        for _halving in range(20):
            nearer = _penalised(u, hits, beta + step)
            if nearer >= value - 1e-12:
                break
            step /= 2
        beta, value = beta + step, nearer
        if float(np.abs(step).max()) < CONVERGED:
            break
    back = np.diag(1 / spread)
    back[0, 1:] = -middle[1:] / spread[1:]
    covariance = back @ np.linalg.inv(_information(u, _probability(u @ beta))) @ back.T
    return back @ beta, covariance


def _penalised(u: Floats, hits: Floats, beta: Floats) -> float:
    odds = u @ beta
    likelihood = float((hits * odds - np.logaddexp(0, odds)).sum())
    sign, log_determinant = np.linalg.slogdet(_information(u, _probability(odds)))
    return likelihood + 0.5 * float(log_determinant) if sign > 0 else -math.inf


def _information(u: Floats, p: Floats) -> Floats:
    return np.asarray((u * (p * (1 - p))[:, None]).T @ u)


def _probability(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _size(logarithm: float) -> float:
    return math.exp(min(max(logarithm, -300.0), 300.0))
