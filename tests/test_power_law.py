"""Power laws of the loss over the amount of data: fitted, and extrapolated with an interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.experiments.power_law import PowerLaw, fit, forecast

SIZES = [100.0, 200.0, 400.0, 800.0, 1600.0]
AT = np.asarray(SIZES)


def error_of(law: PowerLaw, losses: np.ndarray) -> float:
    return float(((law.at(AT) - losses) ** 2).sum())


@given(st.floats(0, 3), st.floats(0.5, 20), st.floats(0.05, 1.5))
def test_an_exact_law_is_found_again(floor: float, factor: float, exponent: float) -> None:
    law = PowerLaw(floor, factor, exponent, 0.0)
    found = fit(SIZES, list(law.at(AT)))
    assert found.at(AT) == pytest.approx(law.at(AT), abs=0.01 * factor)
    assert float(found.at(3200)) == pytest.approx(float(law.at(3200)), abs=0.02 * factor)
    assert found.floor >= 0
    assert found.factor >= 0


@given(st.integers(0, 2**32 - 1))
def test_no_other_law_is_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = PowerLaw(1.0, 5.0, 0.4, 0).at(AT) + rng.normal(0, 0.1, len(SIZES))
    found = fit(SIZES, list(losses))
    for _ in range(300):
        other = PowerLaw(rng.uniform(0, 2), rng.uniform(0, 10), rng.uniform(0.02, 2), 0)
        assert error_of(found, losses) <= error_of(other, losses) * 1.02 + 1e-6


def test_losses_that_do_not_fall_are_expected_to_stay() -> None:
    law = fit(SIZES, [2.0, 2.1, 2.0, 2.1, 2.05])
    assert float(law.at(1e5)) == pytest.approx(2.05, abs=0.01)


def test_the_interval_covers_what_happens_and_grows_with_the_distance() -> None:
    rng = np.random.default_rng(1)
    truth = PowerLaw(1.0, 5.0, 0.4, 0.01)
    sizes = SIZES * 2
    covered = 0
    for trial in range(100):
        losses = truth.at(np.asarray(sizes)) + rng.normal(0, truth.spread, len(sizes))
        law = fit(sizes, list(losses))
        near, far = forecast(law, sizes, [3200, 25600], seed=trial, draws=200)
        assert far.highest - far.lowest > near.highest - near.lowest
        assert near.lowest <= near.loss <= near.highest
        covered += near.lowest <= float(truth.at(3200)) + rng.normal(0, truth.spread) <= near.highest
    assert covered >= 85


def test_two_amounts_do_not_make_a_law() -> None:
    with pytest.raises(ValueError, match="at least three"):
        fit([1, 1, 2], [1, 1, 1])


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_any_seed_draws_an_interval(seed: int) -> None:
    (expected,) = forecast(PowerLaw(1.0, 5.0, 0.5, 0.01), SIZES, [3200.0], seed=seed, draws=50)
    assert expected.lowest < expected.highest
