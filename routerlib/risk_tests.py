"""p-values for "the mean of this loss is above a limit", and testing many settings in a row.

A *loss* is a number in [0, 1] for each problem; its mean over all problems that may come is the
*risk*. The null hypothesis is that the risk is above the limit, so a small p-value is evidence that
the limit holds. Invariants: for problems drawn independently from one source, P(p <= u) <= u under
the null, for every number of problems; the probability that ``follow_sequence`` returns any setting
whose risk is above the limit is at most delta, provided that the order was fixed without the
outcomes of these problems (Angelopoulos, Bates, Candes, Jordan and Lei 2021, Learn then Test, arXiv
2110.01052).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, xlogy

Floats = NDArray[np.float64]
Bound = Literal["hoeffding_bentkus", "betting"]

BOUNDS: tuple[Bound, ...] = ("hoeffding_bentkus", "betting")
# A bet never risks more than this share of the wealth.
MAX_STAKE = 0.75
MAX_SEARCHED = 100_000


def compute_p_values(losses: Floats, limit: float, delta: float, bound: Bound) -> Floats:
    """p-values (...) of losses (..., P) for "the risk is above ``limit``", by either bound.

    ``delta`` is the level at which they will be used; only the size of the bets depends on it.
    """
    if bound == "betting":
        return compute_betting_p_values(losses, limit, delta)
    return compute_hoeffding_bentkus(losses.mean(axis=-1), limit, losses.shape[-1])


def compute_hoeffding_bentkus(risk: Floats, limit: float, n: int | NDArray[np.int64]) -> Floats:
    """Hoeffding-Bentkus p-values (...) from empirical risks (...) of ``n`` problems.

    min(exp(-n kl(min(risk, limit), limit)), e P(Binomial(n, limit) <= ceil(n risk))), with kl the
    relative entropy of two coins (Learn then Test, section 2.2; Bates et al. 2021, arXiv
    2101.02703, theorem 3). It knows the mean and the range, not how little the losses spread.

    >>> float(compute_hoeffding_bentkus(np.array(0.0), 0.1, 22).round(3))
    0.098
    """
    _check_level(limit, "limit")
    below = np.minimum(risk, limit)
    hoeffding = np.exp(-n * _compute_relative_entropy(below, limit))
    bentkus = np.e * bdtr(np.ceil(n * np.asarray(risk)), n, limit)
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0))


def compute_betting_p_values(losses: Floats, limit: float, delta: float) -> Floats:
    """p-values (...) of losses (..., P) that adapt to their spread: the more alike, the smaller.

    One bets on "below the limit", problem after problem: wealth is multiplied by 1 + stake (limit -
    loss), where the stake uses earlier problems only. Under the null the wealth is expected to
    shrink, so P(it ever reaches 1 / u) <= u (Ville 1939), and p is 1 over the largest wealth
    (Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by betting, arXiv
    2010.09686, section 4). Stakes are the best ones for wealth 1 / delta at the end, from the mean
    square of earlier losses about the limit and one more of 1/4 at the start.
    """
    _check_level(limit, "limit")
    _check_level(delta, "delta")
    n = losses.shape[-1]
    squares = np.cumsum((losses - limit) ** 2, axis=-1) + 0.25
    before = np.concatenate((np.full((*losses.shape[:-1], 1), 0.25), squares[..., :-1]), axis=-1)
    spread = before / np.arange(1, n + 1)
    stakes = np.minimum(np.sqrt(2.0 * np.log(1.0 / delta) / (n * spread)), _largest_stake(limit))
    log_wealth = np.cumsum(np.log1p(stakes * (limit - losses)), axis=-1)
    return np.asarray(np.exp(-np.maximum(log_wealth.max(axis=-1), 0.0)))


def follow_sequence(p_values: Floats, order: NDArray[np.int64], delta: float) -> NDArray[np.int64]:
    """Indices (C,) of the certified settings: along ``order``, up to the first p-value > delta.

    Each test may use the whole of delta: an error needs a false rejection at the *first* setting of
    the order whose limit does not hold (Learn then Test, section 2.3, fixed-sequence testing).

    >>> follow_sequence(np.array([0.5, 0.01, 0.2, 0.01]), np.array([3, 1, 2, 0]), 0.1).tolist()
    [3, 1]
    """
    is_rejected = p_values[order] <= delta
    n_certified = len(order) if is_rejected.all() else int(np.argmin(is_rejected))
    return order[:n_certified]


def compute_problems_needed(losses: Floats, limit: float, delta: float, bound: Bound) -> int | None:
    """How many problems whose losses are distributed like these (P,) would give p <= delta.

    None when their mean is not below the limit: then no number does. For Hoeffding-Bentkus it is
    exact at this mean; for betting it is about right, from the mean and the mean square about the
    limit (stakes as above, second order). ``np.zeros(1)`` gives the least number of all.
    """
    gap = limit - float(losses.mean())
    if gap <= 0.0:
        return None
    evidence = np.log(1.0 / delta)
    if bound == "betting":
        square = float(((losses - limit) ** 2).mean())
        steady = evidence / np.log1p(_largest_stake(limit) * gap)
        return int(np.ceil(max(2.0 * evidence * square / gap**2, steady)))
    most = int(np.ceil(evidence / _compute_relative_entropy(losses.mean(), limit)))
    if most > MAX_SEARCHED:
        return most
    # Bentkus may do with fewer, but its ceiling makes it go up and down: take what suffices from
    # there on.
    numbers = np.arange(1, most + 1)
    p_values = compute_hoeffding_bentkus(np.full(most, losses.mean()), limit, numbers)
    too_few = np.flatnonzero(p_values > delta)
    return int(numbers[too_few[-1]]) + 1 if len(too_few) else 1


def _largest_stake(limit: float) -> float:
    """The stake at which a loss of 1 costs ``MAX_STAKE`` of the wealth."""
    return MAX_STAKE / (1.0 - limit)


def _compute_relative_entropy(a: Floats, b: float) -> Floats:
    return np.asarray(xlogy(a, a / b) + xlogy(1.0 - a, (1.0 - a) / (1.0 - b)))


def _check_level(value: float, name: str) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}; give a number between 0 and 1, both excluded")
