"""A threshold table worked by hand, and refusals that say what can be had."""

from __future__ import annotations

import numpy as np
import pytest

from routerlib import calibrate, metrics
from routerlib.calibrate import KeepAccuracy, MaxCost, Sweep
from routerlib.errors import CalibrationError
from routerlib.lattice import Values
from routerlib.policies import NEVER_LARGE

# Four problems. Always small: 1 right at cost 10. Always large: 3 right at cost 50.
SMALL = Values(np.array([1.0, 0.0, 0.0, 0.0]), np.full(4, 10.0))
LARGE = Values(np.array([0.0, 1.0, 1.0, 1.0]), np.full(4, 50.0))
#      threshold: accuracy, cost, cost share
#            0.0: 0.75, 50, 1.00
#            0.3: 1.00, 35, 0.625
#            0.6: 0.50, 20, 0.25
#            0.8: 0.50, 25, 0.375   (dearer than 0.6 and no better)
#    NEVER_LARGE: 0.25, 10, 0
TABLE = Sweep(
    np.array([0.0, 0.3, 0.6, 0.8, NEVER_LARGE]),
    Values(
        np.array([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], float),
        np.array([[50] * 4, [35] * 4, [15, 15, 25, 25], [25] * 4, [10] * 4], float),
    ),
)
WEIGHTS = metrics.compute_resample_weights(metrics.draw_resamples(4, 200, np.random.default_rng(0)))


def run(target: calibrate.Target, sweep: Sweep = TABLE) -> calibrate.Calibration:
    return calibrate.calibrate_threshold(sweep, target, SMALL, LARGE, WEIGHTS)


@pytest.mark.parametrize(
    ("target", "threshold", "achieved"),
    [
        (MaxCost(0.0), NEVER_LARGE, 0.0),
        (MaxCost(0.25), 0.6, 0.25),
        (MaxCost(0.5), 0.6, 0.25),
        (MaxCost(0.625), 0.3, 0.625),
        (MaxCost(1.0), 0.3, 0.625),
        (MaxCost(20.0, unit="absolute"), 0.6, 20.0),
        (MaxCost(50.0, unit="absolute"), 0.3, 35.0),
        (KeepAccuracy(0.3), NEVER_LARGE, 1 / 3),
        (KeepAccuracy(0.5), 0.6, 2 / 3),
        (KeepAccuracy(0.9), 0.3, 4 / 3),
        (KeepAccuracy(1.2), 0.3, 4 / 3),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_table_by_hand(target: calibrate.Target, threshold: float, achieved: float) -> None:
    calibration = run(target)
    assert calibration.setting == threshold
    assert calibration.achieved.value == pytest.approx(achieved)
    assert calibration.achieved.low <= achieved + 1e-9
    assert calibration.achieved.high >= achieved - 1e-9
    assert calibration.achieved.n == 4


def test_achieved_accuracy_and_cost_are_the_chosen_rows() -> None:
    calibration = run(MaxCost(0.5))
    assert calibration.accuracy.value == pytest.approx(0.5)
    assert calibration.cost.value == pytest.approx(20.0)
    assert 15.0 <= calibration.cost.low < 20.0 < calibration.cost.high <= 25.0


def test_nothing_meets_the_target() -> None:
    with pytest.raises(CalibrationError, match=r"accuracy >= 140% of large.*4 calib.*is 1.333"):
        run(KeepAccuracy(1.4))
    dear = Sweep(TABLE.settings[:2], Values(TABLE.values.accuracy[:2], TABLE.values.cost[:2]))
    with pytest.raises(CalibrationError, match=r"cost <= 20%.*is 0.625, asked was 0.2"):
        run(MaxCost(0.2), dear)


def test_target_of_always_large_survives_rounding() -> None:
    # 0.1 + 0.2 style sums: the mean of always large must meet "keep all of it"
    accuracy = np.array([[0.1, 0.2, 0.3]])
    large = Values(accuracy[0].copy(), np.array([3.0, 3.0, 3.0]))
    small = Values(accuracy[0] / 2, np.array([1.0, 1.0, 1.0]))
    sweep = Sweep(np.array([0.0]), Values(accuracy[:, ::-1][:, ::-1], np.full((1, 3), 3.0)))
    weights = metrics.compute_resample_weights(np.array([[0, 1, 2]]))
    assert calibrate.calibrate_threshold(sweep, KeepAccuracy(1.0), small, large, weights)
    assert calibrate.calibrate_threshold(sweep, MaxCost(1.0), small, large, weights)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_impossible_targets_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=str(value)):
        MaxCost(value)
    with pytest.raises(ValueError, match=str(value)):
        KeepAccuracy(value)


def test_thresholds_are_the_distinct_scores() -> None:
    scores = np.array([0.7, 0.2, 0.7, 0.0, 1.0])
    assert calibrate.compute_thresholds(scores).tolist() == [0.0, 0.2, 0.7, 1.0, NEVER_LARGE]


def test_first_threshold_means_always_large_anywhere() -> None:
    assert calibrate.compute_thresholds(np.array([0.4, 0.6])).tolist() == [0.0, 0.6, NEVER_LARGE]
    assert calibrate.compute_thresholds(np.array([0.4])).tolist() == [0.0, NEVER_LARGE]


def test_too_many_thresholds_are_thinned() -> None:
    scores = np.random.default_rng(0).random(5000)
    thresholds = calibrate.compute_thresholds(scores, maximum=100)
    assert len(thresholds) == 100
    assert (np.diff(thresholds) > 0).all()
    assert thresholds[-2] == scores.max()
    with pytest.raises(ValueError, match="maximum is 2"):
        calibrate.compute_thresholds(scores, maximum=2)


def test_curve_follows_the_hull_of_the_calibration_problems() -> None:
    assert calibrate.choose_curve_settings(TABLE).tolist() == [NEVER_LARGE, 0.3]


def test_same_weights_same_interval_other_weights_other_interval() -> None:
    def interval(seed: int) -> metrics.Estimate:
        weights = metrics.compute_resample_weights(
            metrics.draw_resamples(4, 5, np.random.default_rng(seed))
        )
        target = KeepAccuracy(0.5)
        return calibrate.calibrate_threshold(TABLE, target, SMALL, LARGE, weights).cost

    assert interval(0) == interval(0)
    assert interval(0) != interval(1)
