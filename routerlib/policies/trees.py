"""A policy of boosted regression trees that predict the advantage of the large model.

The trees are arrays, so that a policy file holds no code and can be read without the library that
grew them. Invariants: a tree's inner nodes come before their children; a leaf is its own child;
NaN (not recorded) has a side of its own at every split, so nothing is imputed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from routerlib.features import Observations
from routerlib.policies.protocol import Floats

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """The nodes (n,) of all trees, one tree after the other; ``roots`` (T,).

    At an inner node ``feature`` is the column that is compared: left where it is <= ``threshold``,
    or where it is NaN and ``nan_goes_left``. ``left`` and ``right`` are nodes, at a leaf the leaf
    itself. ``value`` counts at leaves only. ``depth`` is the most comparisons on a way down.
    """

    roots: Indices
    feature: Indices
    threshold: Floats
    nan_goes_left: NDArray[np.bool_]
    left: Indices
    right: Indices
    value: Floats
    depth: int

    def predict(self, values: Floats) -> Floats:
        """Sum of the trees' leaf values (m,) for rows (m, F)."""
        total = np.zeros(len(values))
        rows = np.arange(len(values))
        for root in self.roots:
            node = np.full(len(values), root)
            for _ in range(self.depth):
                seen = values[rows, self.feature[node]]
                goes_left = np.where(
                    np.isnan(seen), self.nan_goes_left[node], seen <= self.threshold[node]
                )
                node = np.where(goes_left, self.left[node], self.right[node])
            total += self.value[node]
        return total


@dataclass(frozen=True, slots=True, eq=False)
class TreesPolicy:
    """sigma(advantage / ``temperature``), advantage = ``baseline`` + the sum of the trees.

    The advantage of large and the temperature are in accuracy. ``features`` are the columns that
    the trees compare, ``config`` is what they were grown with.
    """

    name: str
    protocol: str
    features: tuple[str, ...]
    trees: Trees
    baseline: float
    temperature: float
    config: dict[str, object] = field(default_factory=dict)

    def probabilities(self, observations: Observations) -> Floats:
        advantage = self.baseline + self.trees.predict(observations.take(self.features).values)
        log_odds = advantage / self.temperature
        small, large = (np.exp(-np.logaddexp(0.0, sign * log_odds)) for sign in (1.0, -1.0))
        # Each column by itself: 1 - p would lose the order where p is near 1.
        return np.stack((small, large), axis=1)
