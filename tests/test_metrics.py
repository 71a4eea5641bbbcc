"""Known answers by hand, then invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from routerlib import metrics

SMALL = (10.0, 0.2)
LARGE = (30.0, 0.6)


def one(value: float) -> np.ndarray:
    return np.asarray(value)


def pair(point: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    return one(point[0]), one(point[1])


def draw_weights(seed: int, n_problems: int = 40, n_resamples: int = 300) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return metrics.compute_resample_weights(
        metrics.draw_resamples(n_problems, n_resamples, generator)
    )


def test_bootstrap_of_constants_is_the_constant() -> None:
    estimate = metrics.compute_mean_estimate(np.full(40, 0.25), draw_weights(0))
    assert estimate == metrics.Estimate(
        pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25), 40
    )


def test_weights_are_counts_over_problems() -> None:
    weights = metrics.compute_resample_weights(np.array([[0, 0, 2], [1, 1, 1]]))
    np.testing.assert_allclose(weights, np.array([[2, 0, 1], [0, 3, 0]]) / 3)


def test_weighted_means_equal_means_of_drawn_problems() -> None:
    generator = np.random.default_rng(3)
    resamples = metrics.draw_resamples(7, 5, generator)
    values = generator.random((4, 7))
    means = metrics.compute_means(values, metrics.compute_resample_weights(resamples))
    assert means.shape == (5, 4)
    np.testing.assert_allclose(means, values[:, resamples].mean(axis=-1).T)


def test_same_seed_same_result_other_seed_other_result() -> None:
    values = np.random.default_rng(1).random(40)
    first = metrics.compute_mean_estimate(values, draw_weights(5))
    assert first == metrics.compute_mean_estimate(values, draw_weights(5))
    assert first != metrics.compute_mean_estimate(values, draw_weights(6))


def test_pairing_removes_what_two_routers_share() -> None:
    shared = np.random.default_rng(1).random(40)
    gap = metrics.compute_mean_estimate((shared + 0.1) - shared, draw_weights(2))
    assert gap.low == pytest.approx(0.1)
    assert gap.is_distinguishable
    assert not metrics.Estimate(0.1, -0.1, 0.3, 40).is_distinguishable


def test_interval_has_about_its_coverage() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        estimate = metrics.compute_mean_estimate(generator.normal(size=40), draw_weights(seed))
        hits += estimate.low <= 0.0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_leaves_out_what_is_not_finite() -> None:
    replicates = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])
    low, high = metrics.compute_interval(replicates, level=0.5)
    assert low[0] == pytest.approx(1.25)
    assert high[0] == pytest.approx(1.75)
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_outside_the_unit_interval_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=str(level)):
        metrics.compute_interval(np.zeros((3, 1)), level)


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        metrics.draw_resamples(0, 10, np.random.default_rng(0))


def test_ends_of_pgr_and_cost_share() -> None:
    accuracy = np.array([0.2, 0.4, 0.6, 0.7])
    np.testing.assert_allclose(
        metrics.compute_pgr(accuracy, one(0.2), one(0.6)), [0.0, 0.5, 1.0, 1.25]
    )
    np.testing.assert_allclose(
        metrics.compute_cost_share(np.array([10.0, 35.0]), one(10.0), one(30.0)), [0.0, 1.25]
    )
    assert np.isnan(metrics.compute_pgr(accuracy, one(0.5), one(0.5))).all()


def test_hull_by_hand() -> None:
    # (2, 0.3) lies under the line from (1, 0.2) to (3, 0.6); (5, 0.6) is dearer and no better.
    cost = np.array([3.0, 1.0, 2.0, 4.0, 5.0, 1.0])
    accuracy = np.array([0.6, 0.2, 0.3, 0.7, 0.6, 0.1])
    assert metrics.compute_upper_hull(cost, accuracy).tolist() == [1, 0, 3]


def test_hull_drops_points_on_a_line() -> None:
    line = np.array([0.0, 1.0, 2.0])
    assert metrics.compute_upper_hull(line, line).tolist() == [0, 2]


@given(arrays(np.float64, (12, 2), elements=st.floats(0, 1, allow_subnormal=False)))
def test_hull_lies_above_every_point(points: np.ndarray) -> None:
    cost, accuracy = points.T
    hull = metrics.compute_upper_hull(cost, accuracy)
    x, y = cost[hull], accuracy[hull]
    assert (np.diff(x) > 0).all()
    assert (np.interp(cost, x, y) >= accuracy - 1e-9).all()


def test_area_by_hand() -> None:
    # up to (20, 0.6) in a straight line, then level: (0.4 + 0.6) / 2
    args = np.array([20.0]), np.array([0.6])
    assert metrics.compute_hull_area(*args, SMALL, LARGE) == pytest.approx(0.5)
    assert metrics.compute_curve_area(*args, pair(SMALL), pair(LARGE)) == pytest.approx(0.5)


def test_chord_has_half_of_the_gap() -> None:
    share = np.linspace(0, 1, 11)
    cost, accuracy = 10 + 20 * share, 0.2 + 0.4 * share
    area = metrics.compute_curve_area(cost, accuracy, pair(SMALL), pair(LARGE))
    assert area == pytest.approx(0.4)
    assert metrics.compute_hull_area(cost, accuracy, SMALL, LARGE) == pytest.approx(0.4)
    assert metrics.compute_apgr(area, one(0.2), one(0.6)) == pytest.approx(0.5)
    np.testing.assert_allclose(metrics.compute_chord(cost, pair(SMALL), pair(LARGE)), accuracy)


def test_hull_ignores_a_bad_point_and_the_curve_does_not() -> None:
    bad = np.array([20.0]), np.array([0.2])
    assert metrics.compute_hull_area(*bad, SMALL, LARGE) == pytest.approx(0.4)
    assert metrics.compute_curve_area(*bad, pair(SMALL), pair(LARGE)) == pytest.approx(0.3)


def test_detour_beyond_large_at_the_same_accuracy_changes_nothing() -> None:
    beyond = np.array([20.0, 50.0]), np.array([0.6, 0.6])
    area = metrics.compute_curve_area(*beyond, pair(SMALL), pair(LARGE))
    assert area == pytest.approx(0.5)


def test_hull_area_counts_only_between_the_models() -> None:
    outside = np.array([5.0, 40.0]), np.array([0.1, 0.9])
    # both models lie below the line from (5, 0.1) to (40, 0.9); its height at cost 20
    expected = 0.1 + 15.0 * 0.8 / 35.0
    assert metrics.compute_hull_area(*outside, SMALL, LARGE) == pytest.approx(expected)


def test_area_needs_a_dearer_large_model() -> None:
    with pytest.raises(ValueError, match="no area"):
        metrics.compute_hull_area(np.array([1.0]), np.array([1.0]), LARGE, SMALL)
    flat = metrics.compute_curve_area(np.array([1.0]), np.array([1.0]), pair(SMALL), pair(SMALL))
    assert np.isnan(flat)


def test_cpt_by_hand() -> None:
    share, pgr = np.array([0.2, 0.6]), np.array([0.6, 0.9])
    assert metrics.compute_cpt(share, pgr, 0.5) == pytest.approx(0.2 * 5 / 6)
    assert metrics.compute_cpt(share, pgr, 0.8) == pytest.approx(0.2 + 0.4 * 2 / 3)
    assert metrics.compute_cpt(share, pgr, 0.95) == pytest.approx(0.8)


def test_cpt_of_the_chord_is_the_level_and_broadcasts() -> None:
    share = np.tile(np.linspace(0, 1, 5), (3, 1))
    for level in metrics.CPT_LEVELS:
        np.testing.assert_allclose(metrics.compute_cpt(share, share, level), np.full(3, level))


def test_cpt_never_exceeds_always_large() -> None:
    assert metrics.compute_cpt(np.array([1.4]), np.array([0.8]), 0.9) <= 1.0 + 1e-12


def test_cpt_of_no_points_is_the_chord() -> None:
    assert metrics.compute_cpt(np.empty(0), np.empty(0), 0.8) == pytest.approx(0.8)


def test_oracle_share() -> None:
    assert metrics.compute_oracle_share(one(0.5), one(0.4), one(0.6)) == pytest.approx(0.5)
    assert metrics.compute_oracle_share(one(0.4), one(0.4), one(0.6)) == 0.0


def test_wilson_interval_of_known_counts() -> None:
    low, high = metrics.compute_wilson_interval(np.array([0.0, 93, 12]), np.array([10.0, 200, 12]))
    np.testing.assert_allclose(low, [0.0, 0.3972, 0.7575], atol=5e-5)
    np.testing.assert_allclose(high, [0.2775, 0.5341, 1.0], atol=5e-5)


def test_wilson_interval_of_nothing_tried_is_unknown_and_widens_with_the_level() -> None:
    assert np.isnan(metrics.compute_wilson_interval(one(0.0), one(0.0))).all()
    narrow, wide = (metrics.compute_wilson_interval(one(3.0), one(9.0), x) for x in (0.8, 0.99))
    assert wide[0] < narrow[0] < 1 / 3 < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="level is 95"):
        metrics.compute_wilson_interval(one(3.0), one(9.0), 95)


def test_a_published_curve() -> None:
    """TRIM's threshold policy on MATH500 (Kapoor et al., arXiv 2601.10245): accuracy in percent
    against tokens of the strong model, weak 36.4 at 0 and strong 73.0 at 494.8."""
    tokens = np.array([98.2, 133.5, 163.8, 171.0, 233.3])
    accuracy = np.array([54.8, 65.4, 67.4, 68.6, 71.6]) / 100
    weak, strong = (one(0.0), one(0.364)), (one(494.8), one(0.73))
    share = metrics.compute_cost_share(tokens, weak[0], strong[0])
    pgr = metrics.compute_pgr(accuracy, weak[1], strong[1])
    # Worked by hand: (accuracy - 36.4) / 36.6, and straight lines between the points.
    np.testing.assert_allclose(pgr, [0.5027, 0.7923, 0.8470, 0.8798, 0.9617], atol=5e-5)
    for level, expected in ((0.5, 0.1974), (0.8, 0.2784), (0.95, 0.4535)):
        assert metrics.compute_cpt(share, pgr, level) == pytest.approx(expected, abs=5e-5)
    area = metrics.compute_curve_area(tokens, accuracy, weak, strong)
    assert metrics.compute_apgr(area, weak[1], strong[1]) == pytest.approx(0.7932, abs=5e-5)
