"""A power law of the validation loss over the amount of data, fitted and extrapolated with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EXPONENTS = np.geomspace(0.02, 2.0, 120)
"""Exponents that are tried; losses of language models fall with exponents below 1 (Hestness et al. 2017)."""
DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class PowerLaw:
    """loss(n) = floor + factor · n^-exponent, with floor ≥ 0 and factor ≥ 0.

    Attributes:
        floor: loss that no amount of data removes, in the unit of the losses.
        factor: loss above the floor at n = 1.
        exponent: how fast it falls.
        spread: standard deviation of the measured losses around the law.
    """

    floor: float
    factor: float
    exponent: float
    spread: float

    def at(self, amount: float | Floats) -> Floats:
        """Return the loss of an amount of data, or of several."""
        return np.asarray(self.floor + self.factor * np.asarray(amount, float) ** -self.exponent)


@dataclass(frozen=True)
class Forecast:
    """The loss that a law expects of an amount of data, with a bootstrap interval."""

    loss: float
    lowest: float
    highest: float


def fit(amounts: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit a power law by least squares.

    Args:
        amounts: amounts of data, above 0, of at least three sizes.
        losses: measured losses, one for each amount.

    Raises:
        ValueError: there are fewer than three different amounts.
    """
    if len(set(amounts)) < 3:
        raise ValueError("a power law needs losses of at least three amounts of data")
    sizes, values = np.asarray(amounts, float), np.asarray(losses, float)
    floor, factor, exponent = (float(part[0]) for part in _fits(sizes, values[None]))
    residuals = values - (floor + factor * sizes**-exponent)
    freedom = max(1, len(values) - 3)
    return PowerLaw(floor, factor, exponent, float(np.sqrt((residuals**2).sum() / freedom)))


def forecast(
    law: PowerLaw, amounts: Sequence[float], wanted: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> list[Forecast]:
    """Return the expected losses of amounts of data.

    The interval is a parametric bootstrap: losses are drawn around the law with its spread, the law is fitted again to
    each draw, and the loss of a further run is drawn around that.

    Args:
        law: the fitted law.
        amounts: the amounts that it was fitted to.
        wanted: the amounts to expect losses of.
        seed: of the draws.
        draws: number of draws.
    """
    rng = np.random.default_rng(seed % 2**64)
    sizes, targets = np.asarray(amounts, float), np.asarray(wanted, float)
    drawn = law.at(sizes) + rng.normal(0.0, law.spread, (draws, len(sizes)))
    floor, factor, exponent = _fits(sizes, drawn)
    expected = floor[:, None] + factor[:, None] * targets ** -exponent[:, None]
    expected = np.maximum(expected + rng.normal(0.0, law.spread, expected.shape), 0.0)
    lowest, highest = np.quantile(expected, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    losses = law.at(targets)
    rows = zip(losses, np.minimum(losses, lowest), np.maximum(losses, highest), strict=True)
    return [Forecast(*map(float, row)) for row in rows]


def _fits(sizes: Floats, losses: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit the law to each row of losses [draws, points]; return floors, factors and exponents [draws].

    For a given exponent the law is linear; if its best floor or factor is below 0, the best one of those at 0 is taken.
    """
    best = np.full(len(losses), np.inf)
    best_fits = np.zeros((3, len(losses)))
    mean = losses.mean(1)
    for exponent in EXPONENTS:
        basis = sizes**-exponent
        centred = basis - basis.mean()
        slope = (losses * centred).sum(1) / (centred**2).sum()
        factor = np.maximum(slope, 0.0)
        floor = mean - factor * basis.mean()
        through_zero = np.maximum((losses * basis).sum(1) / (basis**2).sum(), 0.0)
        factor, floor = np.where(floor < 0, through_zero, factor), np.maximum(floor, 0.0)
        error = ((losses - floor[:, None] - factor[:, None] * basis) ** 2).sum(1)
        better = error < best
        best[better] = error[better]
        best_fits[:, better] = np.stack([floor, factor, np.full_like(floor, exponent)])[:, better]
    return best_fits[0], best_fits[1], best_fits[2]
