"""p-values against published formulas, MAPIE and simulation; the sequence by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import binom

from routerlib import risk_tests
from routerlib.risk_tests import BOUNDS, Bound


def draw_losses(
    kind: str, risk: float, shape: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """Losses in [0, 1] with mean ``risk``: all or nothing, or near the mean."""
    if kind == "coin":
        return (generator.random(shape) < risk).astype(float)
    return risk + min(risk, 1.0 - risk) * (generator.random(shape) - 0.5) / 2.0


@pytest.mark.parametrize("n", [1, 7, 100, 2500])
@pytest.mark.parametrize("limit", [0.02, 0.3, 0.505, 0.95])
def test_hoeffding_bentkus_agrees_with_mapie(n: int, limit: float) -> None:
    risk = np.random.default_rng(n).random(40)
    risk = np.concatenate((risk * limit, risk, [0.0, limit]))
    ours = risk_tests.compute_hoeffding_bentkus(risk, limit, n)
    theirs = compute_hoeffding_bentkus_p_value(risk, n, limit)[:, 0]
    np.testing.assert_allclose(ours, np.minimum(theirs, 1.0), rtol=1e-9, atol=1e-300)
    assert (ours[risk < limit] < 1.0).any()


def test_hoeffding_bentkus_by_hand() -> None:
    # No loss among n: Hoeffding has (1 - limit)^n, and Bentkus e times that.
    p = risk_tests.compute_hoeffding_bentkus(np.array([0.0, 0.2]), 0.1, 30)
    assert p[0] == pytest.approx(0.9**30)
    assert p[1] == 1.0
    # A case in which Bentkus is the smaller one: few problems, a mean near the limit.
    q = float(risk_tests.compute_hoeffding_bentkus(np.array(0.05), 0.1, 2000))
    kl = 0.05 * math.log(0.5) + 0.95 * math.log(0.95 / 0.9)
    assert q == pytest.approx(min(math.exp(-2000 * kl), math.e * binom.cdf(100, 2000, 0.1)))
    assert q < math.exp(-2000 * kl)


def test_fixed_sequence_agrees_with_mapie() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        p_values = generator.random(8) ** 4
        ours = risk_tests.follow_sequence(p_values, np.arange(8), 0.1)
        theirs = control_fwer(p_values, 0.1, "fixed_sequence")
        assert ours.tolist() == np.asarray(theirs).tolist()


def test_sequence_by_hand() -> None:
    p = np.array([0.05, 0.2, 0.01, 0.1])
    assert risk_tests.follow_sequence(p, np.array([0, 1, 2, 3]), 0.1).tolist() == [0]
    assert risk_tests.follow_sequence(p, np.array([2, 0, 3, 1]), 0.1).tolist() == [2, 0, 3]
    assert risk_tests.follow_sequence(p, np.array([1, 0]), 0.1).tolist() == []
    assert risk_tests.follow_sequence(p, np.arange(4), 0.3).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("kind", ["coin", "near"])
@pytest.mark.parametrize("limit", [0.05, 0.4, 0.6])
def test_p_values_are_valid_at_the_limit(bound: Bound, kind: str, limit: float) -> None:
    losses = draw_losses(kind, limit, (4000, 60), np.random.default_rng(3))
    p_values = risk_tests.compute_p_values(losses, limit, 0.1, bound)
    for level in (0.05, 0.1, 0.2, 0.5):
        assert (p_values <= level).mean() <= level + 3.0 * math.sqrt(level * (1 - level) / 4000)


@pytest.mark.parametrize("bound", BOUNDS)
def test_p_values_have_power_below_the_limit(bound: Bound) -> None:
    losses = draw_losses("coin", 0.2, (500, 100), np.random.default_rng(4))
    assert (risk_tests.compute_p_values(losses, 0.4, 0.1, bound) <= 0.1).mean() > 0.95


def test_betting_uses_how_little_the_losses_spread() -> None:
    losses = draw_losses("near", 0.48, (200, 200), np.random.default_rng(5))
    betting = risk_tests.compute_p_values(losses, 0.5, 0.1, "betting")
    hoeffding = risk_tests.compute_p_values(losses, 0.5, 0.1, "hoeffding_bentkus")
    assert (betting <= 0.1).mean() > 0.9
    assert (hoeffding <= 0.1).mean() == 0.0


def test_betting_by_hand() -> None:
    # Stakes: 1/4 of a square before any problem, so sqrt(2 ln 10 / (2 / 4)) = 3.03, above
    # 0.75 / 0.5 = 1.5; then (1/4 + 1/4) / 2, again above. Wealth: 1.75, then 1.75 * 0.25.
    p = risk_tests.compute_betting_p_values(np.array([[0.0, 1.0], [1.0, 1.0]]), 0.5, 0.1)
    assert p.tolist() == pytest.approx([1.0 / 1.75, 1.0])


@given(st.floats(0.0, 0.99), st.floats(0.0, 0.01), st.floats(0.05, 0.95), st.integers(1, 400))
def test_a_larger_risk_never_helps(risk: float, more: float, limit: float, n: int) -> None:
    p = risk_tests.compute_hoeffding_bentkus(np.array([risk, risk + more]), limit, n)
    assert 0.0 <= p[0] <= p[1] + 1e-12 <= 1.0 + 1e-12


@pytest.mark.parametrize(("risk", "limit"), [(0.0, 0.1), (0.05, 0.1), (0.45, 0.5), (0.498, 0.505)])
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_problems_needed_are_just_enough(risk: float, limit: float, delta: float) -> None:
    losses = np.array([risk])
    n = risk_tests.compute_problems_needed(losses, limit, delta, "hoeffding_bentkus")
    assert n is not None
    numbers = np.array([n - 1, n, n + 1, 2 * n])
    p = risk_tests.compute_hoeffding_bentkus(np.full(4, risk), limit, numbers)
    assert p[0] > delta >= p[1:].max()


@pytest.mark.parametrize(("kind", "risk", "limit"), [("coin", 0.3, 0.4), ("near", 0.49, 0.5)])
def test_problems_needed_for_betting_are_about_right(kind: str, risk: float, limit: float) -> None:
    generator = np.random.default_rng(7)
    seen = draw_losses(kind, risk, (1, 5000), generator)[0]
    n = risk_tests.compute_problems_needed(seen, limit, 0.1, "betting")
    assert n is not None
    losses = draw_losses(kind, risk, (300, n), generator)
    share = (risk_tests.compute_betting_p_values(losses, limit, 0.1) <= 0.1).mean()
    assert 0.4 < share < 0.95
    half = risk_tests.compute_betting_p_values(losses[:, : n // 2], limit, 0.1)
    assert (half <= 0.1).mean() < share


def test_no_number_of_problems_shows_what_is_not_so() -> None:
    for bound in BOUNDS:
        assert risk_tests.compute_problems_needed(np.array([0.5]), 0.5, 0.1, bound) is None


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1])
def test_limits_that_leave_nothing_to_test(limit: float) -> None:
    for bound in BOUNDS:
        with pytest.raises(ValueError, match=f"limit is {limit}"):
            risk_tests.compute_p_values(np.zeros((1, 3)), limit, 0.1, bound)
    with pytest.raises(ValueError, match=r"delta is 1\.0"):
        risk_tests.compute_betting_p_values(np.zeros((1, 3)), 0.5, 1.0)
