"""What all routers are compared with on one set of test problems, and the paired resamples.

Invariant: the resamples are drawn once, so any two estimates made here are paired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routerlib import metrics
from routerlib.calibrate import Means, compute_value_means
from routerlib.costs import Lens
from routerlib.evaluate.routers import evaluate_ends
from routerlib.lattice import Lattice, Values, oracle
from routerlib.metrics import Estimate

Floats = NDArray[np.float64]

INDISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One number of one router: on the test problems, and in each resample (B,)."""

    value: float
    replicates: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The reference routers on P test problems, and ``weights`` (B, P) of the resamples.

    ``oracle_area`` (1 + B,) is the clairvoyant frontier's area, first on all problems and then in
    each resample; the same layout is used by every method.
    """

    weights: Floats
    small: Values
    large: Values
    clairvoyant: Values
    oracle_area: Floats

    @property
    def n_problems(self) -> int:
        return int(self.weights.shape[1])

    def compute_means(self, values: Values) -> Means:
        """Means (1 + B, ...) of values (..., P): all problems first, then each resample."""
        return compute_value_means(values, stack_weights(self.weights))

    def estimate(self, measure: Measure) -> Estimate:
        """The measure with its 95% interval."""
        return metrics.compute_estimate(measure.value, measure.replicates, self.n_problems)

    def measure_point(self, point: Values) -> dict[str, Measure]:
        """Accuracy, cost and what follows from them, of one operating point (P,)."""
        router, small, large = map(self.compute_means, (point, self.small, self.large))
        chord = metrics.compute_chord(
            router.cost, (small.cost, small.accuracy), (large.cost, large.accuracy)
        )
        return split_measures(
            {
                "accuracy": router.accuracy,
                "cost": router.cost,
                "cost_share": metrics.compute_cost_share(router.cost, small.cost, large.cost),
                "pgr": metrics.compute_pgr(router.accuracy, small.accuracy, large.accuracy),
                "accuracy_over_chord": router.accuracy - chord,
            }
        )

    def measure_curve(self, curve: Values) -> dict[str, Measure]:
        """Areas and thresholds of a curve (V, P) whose points were chosen elsewhere."""
        router, small, large = map(self.compute_means, (curve, self.small, self.large))
        area = metrics.compute_curve_area(
            router.cost,
            router.accuracy,
            (small.cost, small.accuracy),
            (large.cost, large.accuracy),
        )
        chord_area = (small.accuracy + large.accuracy) / 2.0
        share = metrics.compute_cost_share(router.cost, small.cost[:, None], large.cost[:, None])
        pgr = metrics.compute_pgr(router.accuracy, small.accuracy[:, None], large.accuracy[:, None])
        found = {
            "area": area,
            "area_over_chord": area - chord_area,
            "apgr": metrics.compute_apgr(area, small.accuracy, large.accuracy),
            "oracle_share": metrics.compute_oracle_share(area, chord_area, self.oracle_area),
        }
        for level in metrics.CPT_LEVELS:
            found[f"cpt{100 * level:.0f}"] = metrics.compute_cpt(share, pgr, level)
        return split_measures(found)


def compare_on(
    test: Lattice, lens: Lens, generator: np.random.Generator, n_resamples: int = 2000
) -> Comparison:
    """Evaluate the references on a complete two-model lattice and draw the resamples."""
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(test.n_problems, n_resamples, generator)
    )
    small, large = evaluate_ends(test, lens)
    clairvoyant = oracle(test, lens, "before")
    # Where every answer counts as right, the oracle's path is the cheapest path.
    all_right = np.where(np.isnan(test.outcome), np.nan, 1.0)
    cheapest = oracle(replace(test, outcome=all_right), lens, "before")
    areas = compute_oracle_areas(cheapest.cost, clairvoyant, small, large, stack_weights(weights))
    return Comparison(weights, small, large, clairvoyant, areas)


def compute_oracle_areas(
    cheapest: Floats, clairvoyant: Values, small: Values, large: Values, weights: Floats
) -> Floats:
    """Area under the clairvoyant frontier in each row of weights (B, P): (B,), NaN where large is
    not dearer.

    ``cheapest`` (P,) is the cost of each problem's cheapest path. The frontier buys right answers
    in the order of what they cost beyond that (``lattice.frontier``).
    """
    extra = clairvoyant.cost - cheapest
    order = np.argsort(extra, kind="stable")
    bought = weights[:, order]
    cost = (weights @ cheapest)[:, None] + np.cumsum(bought * extra[order], axis=1)
    accuracy = np.cumsum(bought * clairvoyant.accuracy[order], axis=1)
    ends = [compute_value_means(values, weights) for values in (small, large)]
    areas = np.full(len(weights), np.nan)
    for b in range(len(weights)):
        first, last = ((float(end.cost[b]), float(end.accuracy[b])) for end in ends)
        if last[0] > first[0]:
            areas[b] = metrics.compute_hull_area(cost[b], accuracy[b], first, last)
    return areas


def stack_weights(weights: Floats) -> Floats:
    """Put equal weights above resample weights (B, P): (1 + B, P), one pass for both."""
    n_problems = weights.shape[1]
    return np.concatenate((np.full((1, n_problems), 1.0 / n_problems), weights))


def split_measures(stacked: dict[str, Floats]) -> dict[str, Measure]:
    """Turn (1 + B,) arrays into measures."""
    return {name: Measure(float(row[0]), row[1:]) for name, row in stacked.items()}


def judge(difference: Estimate) -> str:
    """Say which way a difference goes, or that it is not distinguishable from 0."""
    if not difference.is_distinguishable:
        return INDISTINGUISHABLE
    return "higher" if difference.value > 0.0 else "lower"
