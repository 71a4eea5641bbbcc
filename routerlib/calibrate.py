"""A target -> a threshold, from calibration problems only.

Everything here is a function of arrays of the calibration problems; nothing takes a lattice or a
store, so the outcomes of test problems are out of reach. Invariants: a threshold is chosen among
those whose *measured* calibration value meets the target; when none does it is an error that says
the best that can be had, never the nearest threshold. Nothing is guaranteed for other problems
(``certificate`` does that): the best of many looks better than it is, and the interval says how far
the achieved value may be from the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from routerlib.errors import CalibrationError
from routerlib.lattice import Values
from routerlib.metrics import (
    Estimate,
    compute_cost_share,
    compute_estimate,
    compute_mean_estimate,
    compute_means,
    compute_upper_hull,
)
from routerlib.policies import NEVER_LARGE

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Means:
    """Mean accuracy and mean cost, each of shape (...)."""

    accuracy: Floats
    cost: Floats


def compute_value_means(values: Values, weights: Floats | None = None) -> Means:
    """Means over problems of values (..., P): (...), or (B, ...) with resample weights (B, P)."""
    if weights is None:
        return Means(values.accuracy.mean(axis=-1), values.cost.mean(axis=-1))
    return Means(compute_means(values.accuracy, weights), compute_means(values.cost, weights))


@dataclass(frozen=True, slots=True)
class MaxCost:
    """Spend at most ``value``: of the way from always small to always large, or in lens units."""

    value: float
    unit: Literal["share", "absolute"] = "share"

    def __post_init__(self) -> None:
        if not self.value >= 0.0:
            raise ValueError(f"a cost of at most {self.value} cannot be met; give a value >= 0")

    @property
    def label(self) -> str:
        return f"cost <= {self.value:.0%}" if self.unit == "share" else f"cost <= {self.value:g}"

    def measure(self, router: Means, small: Means, large: Means) -> Floats:
        """What is compared with ``value``; all arguments broadcast."""
        if self.unit == "absolute":
            return router.cost
        return compute_cost_share(router.cost, small.cost, large.cost)

    def is_met(self, measured: Floats) -> NDArray[np.bool_]:
        return np.asarray(measured <= self.value + 1e-12)

    def choose(self, candidates: Means) -> int:
        """The most accurate of candidates (C,), the cheapest of those."""
        return int(np.lexsort((candidates.cost, -candidates.accuracy))[0])

    def pick_best(self, measured: Floats) -> float:
        return float(np.min(measured))


@dataclass(frozen=True, slots=True)
class KeepAccuracy:
    """Keep at least the share ``value`` of always-large's accuracy (1 - alpha in the CMDP)."""

    value: float

    def __post_init__(self) -> None:
        if not self.value > 0.0:
            raise ValueError(f"keeping {self.value} of the accuracy is no target; give e.g. 0.95")

    @property
    def label(self) -> str:
        return f"accuracy >= {self.value:.0%} of large"

    def measure(self, router: Means, small: Means, large: Means) -> Floats:
        """Accuracy over always-large's; all arguments broadcast, ``small`` is not used."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(router.accuracy / large.accuracy)

    def is_met(self, measured: Floats) -> NDArray[np.bool_]:
        return np.asarray(measured >= self.value - 1e-12)

    def choose(self, candidates: Means) -> int:
        """The cheapest of candidates (C,), the most accurate of those."""
        return int(np.lexsort((-candidates.accuracy, candidates.cost))[0])

    def pick_best(self, measured: Floats) -> float:
        return float(np.max(measured))


Target = MaxCost | KeepAccuracy


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One router at T settings (thresholds, or a swept policy's own): values (T, P) of the same
    problems."""

    settings: Floats
    values: Values


@dataclass(frozen=True, slots=True)
class Calibration:
    """The setting chosen for a target, and what it achieves on the calibration problems.

    ``achieved`` is in the target's own unit (a share of cost, a cost, a share of accuracy).
    """

    target: Target
    setting: float
    achieved: Estimate
    accuracy: Estimate
    cost: Estimate


def compute_thresholds(scores: Floats, maximum: int = 1000) -> Floats:
    """Thresholds worth trying, ascending: (T,) with T <= maximum.

    All distinct scores; when they are too many, evenly spaced ones among them. The first is 0, so
    that it means always large on any problem, and the last ``NEVER_LARGE``.

    >>> compute_thresholds(np.array([0.5, 0.2, 0.5])).tolist()
    [0.0, 0.5, 2.0]
    """
    if maximum < 3:
        raise ValueError(f"maximum is {maximum}; a sweep needs its two ends and something between")
    inner = np.unique(scores)[1:]
    if len(inner) > maximum - 2:
        picked = np.linspace(0, len(inner) - 1, maximum - 2).round().astype(np.int64)
        inner = inner[np.unique(picked)]
    return np.concatenate(([0.0], inner[inner > 0.0], [NEVER_LARGE]))


def calibrate_threshold(
    sweep: Sweep, target: Target, small: Values, large: Values, weights: Floats
) -> Calibration:
    """Choose the setting of a sweep for a target.

    ``small`` and ``large`` are the two constant routers on the same calibration problems (P,),
    ``weights`` (B, P) the resamples for the intervals. For a cost target it is the most accurate
    setting within the budget, for an accuracy target the cheapest that keeps it. CalibrationError
    when no setting meets the target.
    """
    n_problems = sweep.values.accuracy.shape[-1]
    ends = compute_value_means(small), compute_value_means(large)
    means = compute_value_means(sweep.values)
    measured = target.measure(means, *ends)
    allowed = np.flatnonzero(target.is_met(measured))
    if len(allowed) == 0:
        raise CalibrationError(
            f"no threshold meets '{target.label}' on {n_problems} calibration problems: the best "
            f"achievable is {target.pick_best(measured):.4g}, asked was {target.value:g}; relax "
            f"the target or use another router"
        )
    chosen = int(allowed[target.choose(Means(means.accuracy[allowed], means.cost[allowed]))])
    point = Values(sweep.values.accuracy[chosen], sweep.values.cost[chosen])
    return Calibration(
        target,
        float(sweep.settings[chosen]),
        compute_achieved(target, point, small, large, weights),
        compute_mean_estimate(point.accuracy, weights),
        compute_mean_estimate(point.cost, weights),
    )


def compute_achieved(
    target: Target, point: Values, small: Values, large: Values, weights: Floats
) -> Estimate:
    """What ``point`` (P,) achieves in the target's unit, with its interval; weights (B, P)."""
    value = target.measure(*(compute_value_means(v) for v in (point, small, large)))
    resampled = target.measure(*(compute_value_means(v, weights) for v in (point, small, large)))
    return compute_estimate(float(value), resampled, point.accuracy.shape[-1])


def choose_curve_settings(sweep: Sweep) -> Floats:
    """Settings (V,) of the sweep's upper hull on calibration problems, from cheap to dear.

    The curve through them on *test* problems is fair: nothing was selected there.
    """
    means = compute_value_means(sweep.values)
    return sweep.settings[compute_upper_hull(means.cost, means.accuracy)]
