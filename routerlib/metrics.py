"""What a router is worth: pure functions of arrays, nothing is read and nothing is kept.

Words. Accuracy is a share of problems in [0, 1]; cost is in the unit of one lens; a *curve* is a
sequence of V operating points from cheap to dear; the *chord* is the straight line between always
small and always large, which anybody reaches by tossing a coin for each problem.

Invariants: every interval of a router comes from problems drawn with replacement, and all routers
share the same draws, so differences are paired. Cost share and PGR are 0 for always small and 1 for
always large. Functions broadcast over leading axes, so the same line serves one data set and B
resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CPT_LEVELS = (0.5, 0.8, 0.9, 0.95)
ROUNDING = 1e-12  # what sums of floating-point numbers may leave of an exact 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value over ``n`` problems with the ends of its interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval excludes 0 (of use for differences)."""
        return bool(self.low > 0.0 or self.high < 0.0)


def draw_resamples(
    n_problems: int, n_resamples: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw problem indices with replacement: (B, P) for B resamples of P problems.

    Drawn once and given to every router: that is what makes the bootstrap paired (Efron and
    Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13).
    """
    if n_problems < 1 or n_resamples < 1:
        raise ValueError(
            f"need at least one problem and one resample, got {n_problems} and {n_resamples}"
        )
    return generator.integers(0, n_problems, size=(n_resamples, n_problems))


def compute_resample_weights(resamples: NDArray[np.int64]) -> Floats:
    """Turn indices (B, P) into the weight of each problem (B, P); every row sums to 1.

    The mean of a resample is then one matrix product, whatever the number of operating points.
    """
    n_resamples, n_problems = resamples.shape
    flat = resamples + n_problems * np.arange(n_resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_resamples * n_problems)
    shares: Floats = counts.reshape(n_resamples, n_problems) / n_problems
    return shares


def compute_means(values: Floats, weights: Floats) -> Floats:
    """Mean of per-problem values (..., P) in each resample, from weights (B, P): (B, ...)."""
    return np.moveaxis(np.asarray(values, dtype=np.float64) @ weights.T, -1, 0)


def compute_interval(replicates: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile interval of replicates (B, ...): low (...), high (...).

    Replicates that are not finite (a ratio whose denominator vanished) are left out; where none is
    left both ends are NaN.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; give the coverage wanted, e.g. 0.95")
    tail = (1.0 - level) / 2.0
    finite = np.isfinite(replicates)
    if finite.all():
        low, high = np.quantile(replicates, [tail, 1.0 - tail], axis=0)
        return np.asarray(low), np.asarray(high)
    columns = replicates.reshape(replicates.shape[0], -1)
    kept = finite.reshape(columns.shape)
    ends = np.full((2, columns.shape[1]), np.nan)
    for j in range(columns.shape[1]):
        if kept[:, j].any():
            ends[:, j] = np.quantile(columns[kept[:, j], j], [tail, 1.0 - tail])
    ends = ends.reshape(2, *replicates.shape[1:])
    return ends[0], ends[1]


def drop_rounding(value: float) -> float:
    """Return the value, or 0 for what is within rounding of it, so that equals do not differ.

    >>> drop_rounding(0.1 + 0.2 - 0.3), drop_rounding(1e-9)
    (0.0, 1e-09)
    """
    return 0.0 if abs(value) < ROUNDING else float(value)


def compute_estimate(value: float, replicates: Floats, n: int, level: float = 0.95) -> Estimate:
    """Join a value on the full data with the percentile interval of its replicates (B,)."""
    low, high = compute_interval(replicates, level)
    return Estimate(drop_rounding(value), drop_rounding(float(low)), drop_rounding(float(high)), n)


def compute_mean_estimate(values: Floats, weights: Floats, level: float = 0.95) -> Estimate:
    """Mean of per-problem values (P,) with its bootstrap interval; weights (B, P).

    A paired difference is the mean of the difference: ``compute_mean_estimate(a - b, weights)``.
    """
    return compute_estimate(values.mean(), compute_means(values, weights), values.shape[-1], level)


def compute_wilson_interval(
    successes: Floats, trials: Floats, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of a share from counts (...): low (...), high (...); NaN where nothing was tried.

    Wilson 1927, Probable inference, J. Am. Stat. Assoc. 22. Unlike the bootstrap it has a width
    when all or none succeed.

    >>> low, high = compute_wilson_interval(np.array([0.0, 5.0]), np.array([10.0, 10.0]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.237], [0.278, 0.763])
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; give the coverage wanted, e.g. 0.95")
    n = np.where(np.asarray(trials) > 0, trials, np.nan).astype(np.float64)
    share = np.asarray(successes, dtype=np.float64) / n
    squared = NormalDist().inv_cdf((1.0 + level) / 2.0) ** 2
    middle = share + squared / (2.0 * n)
    half = np.sqrt(squared * (share * (1.0 - share) / n + squared / (4.0 * n**2)))
    scale = 1.0 + squared / n
    return np.maximum((middle - half) / scale, 0.0), np.minimum((middle + half) / scale, 1.0)


def compute_cost_share(cost: Floats, small: Floats, large: Floats) -> Floats:
    """Way from small's cost to large's: (cost - small) / (large - small); NaN when they agree.

    It is 0 for always small, 1 for always large, and may leave [0, 1]: a router that drafts and
    throws away can cost more than always large.
    """
    gap = np.asarray(large - small, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.asarray((cost - small) / gap, dtype=np.float64)
    return np.where(gap == 0.0, np.nan, share)


def compute_pgr(accuracy: Floats, small: Floats, large: Floats) -> Floats:
    """Performance gap recovered: (accuracy - small) / (large - small), NaN without a gap.

    RouteLLM (Ong et al., arXiv 2406.18665), section 2. The three arguments broadcast.
    """
    return compute_cost_share(accuracy, small, large)


def compute_chord(
    cost: Floats, small: tuple[Floats, Floats], large: tuple[Floats, Floats]
) -> Floats:
    """Accuracy of the coin between the models at the same cost; ``small`` and ``large`` are (cost,
    accuracy). Linear also beyond the two ends."""
    share = compute_cost_share(cost, small[0], large[0])
    return np.asarray(small[1] + share * (large[1] - small[1]))


def compute_upper_hull(cost: Floats, accuracy: Floats) -> NDArray[np.int64]:
    """Indices of the upper concave hull of points (T,), by increasing cost.

    Ends at the most accurate point (the cheapest of them): what lies beyond is dearer and no
    better. Two neighbouring hull points can be mixed by a coin, so every point of the hull is a
    router (Andrew's monotone chain, 1979).
    """
    order = np.lexsort((-accuracy, cost))
    hull: list[int] = []
    best = -np.inf
    for i in order:
        if accuracy[i] <= best:
            continue
        best = accuracy[i]
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            turn = (cost[b] - cost[a]) * (accuracy[i] - accuracy[a]) - (
                accuracy[b] - accuracy[a]
            ) * (cost[i] - cost[a])
            if turn < 0.0:
                break
            hull.pop()
        hull.append(int(i))
    return np.asarray(hull, dtype=np.int64)


def compute_hull_area(
    cost: Floats, accuracy: Floats, small: tuple[float, float], large: tuple[float, float]
) -> float:
    """Mean height of the upper hull of points (T,) between the two models' costs.

    ``small`` and ``large`` are (cost, accuracy); both join the points, since everybody has them.
    The chord has area (small + large) / 2. Points chosen after seeing the outcomes flatter whoever
    sweeps most: use ``compute_curve_area`` to compare routers, and this for the oracle.
    """
    costs = np.append(cost, [small[0], large[0]])
    accuracies = np.append(accuracy, [small[1], large[1]])
    if not large[0] > small[0]:
        raise ValueError(f"always large costs {large[0]} and always small {small[0]}: no area")
    hull = compute_upper_hull(costs, accuracies)
    x, y = costs[hull], accuracies[hull]
    inner = (x > small[0]) & (x < large[0])
    grid = np.concatenate(([small[0]], x[inner], [large[0]]))
    # np.interp holds the last value beyond the hull's end, which is right: dearer, no better.
    heights = np.interp(grid, x, y)
    return float(np.trapezoid(heights, grid) / (large[0] - small[0]))


def _join_ends(curve: Floats, small: Floats, large: Floats) -> Floats:
    shape = (*curve.shape[:-1], 1)
    ends = [
        np.broadcast_to(np.asarray(end, np.float64)[..., None], shape) for end in (small, large)
    ]
    return np.concatenate((ends[0], curve, ends[1]), axis=-1)


def compute_curve_area(
    cost: Floats,
    accuracy: Floats,
    small: tuple[Floats, Floats],
    large: tuple[Floats, Floats],
) -> Floats:
    """Mean height, by the trapezoid rule, of the curve small -> V points -> large: (...).

    ``cost`` and ``accuracy`` are (..., V), ordered as they were chosen on *calibration* problems;
    ``small`` and ``large`` are (cost, accuracy) of shape (...). Nothing is selected on the data at
    hand, so there is no flattery: a step back in cost counts negatively, and a detour beyond large
    cancels itself unless it changes the accuracy. The chord has area (small + large) / 2. NaN where
    large is not dearer: then there is nothing to trade.
    """
    x = _join_ends(cost, small[0], large[0])
    y = _join_ends(accuracy, small[1], large[1])
    area = np.sum((y[..., 1:] + y[..., :-1]) * np.diff(x, axis=-1), axis=-1) / 2.0
    gap = np.asarray(large[0]) - np.asarray(small[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 0.0, area / gap, np.nan)


def compute_apgr(area: Floats, small: Floats, large: Floats) -> Floats:
    """Average PGR over cost: (area - small) / (large - small), accuracies and area of shape (...).

    RouteLLM integrates the PGR over the share of strong calls; here it is integrated over the cost
    share, since steps differ in length. The chord has 0.5.
    """
    return compute_pgr(area, small, large)


def compute_cpt(share: Floats, pgr: Floats, level: float) -> Floats:
    """Call-performance threshold: least cost share at which the curve recovers ``level``.

    ``share`` and ``pgr`` are (..., V), ordered from cheap to dear; the ends (0, 0) and (1, 1) join,
    and neighbours are connected by straight lines. RouteLLM counts strong calls; here it is cost.
    Always large has 1; the result never exceeds 1, for a dearer way to the same level is not taken.
    """
    zeros = np.zeros(share.shape[:-1])
    x = _join_ends(share, zeros, zeros + 1.0)
    y = _join_ends(pgr, zeros, zeros + 1.0)
    x0, x1, y0, y1 = x[..., :-1], x[..., 1:], y[..., :-1], y[..., 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x0 + (x1 - x0) * (level - y0) / (y1 - y0)
    crosses = (np.minimum(y0, y1) <= level) & (level <= np.maximum(y0, y1)) & (y0 != y1)
    candidates = np.where(crosses, crossing, np.inf)
    candidates = np.minimum(candidates, np.where(y0 >= level, x0, np.inf))
    return np.asarray(np.min(np.minimum(candidates, np.where(y1 >= level, x1, np.inf)), axis=-1))


def compute_oracle_share(area: Floats, chord_area: Floats, oracle_area: Floats) -> Floats:
    """Share of the gap to the oracle that is closed: (area - chord) / (oracle - chord).

    0 for the chord, 1 for the clairvoyant oracle's frontier, negative below the chord, NaN without
    a gap.
    """
    return compute_pgr(area, chord_area, oracle_area)
