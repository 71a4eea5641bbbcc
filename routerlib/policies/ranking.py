"""Ranks instead of saturated probabilities.

A policy trained on a return that is nearly linear in cost ends near 0 and 1, and a threshold on it
jumps. Its *order* of the nodes is what was learnt. ``RankedPolicy`` replaces the probability of
large by its quantile among the training nodes, so that a threshold of 0.3 calls large at about 70%
of the decisions. Invariant: the map is monotone, so no two nodes change their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routerlib.features import Observations
from routerlib.policies.protocol import Floats, Policy, stack_probabilities


def compute_log_odds(probabilities: Floats) -> Floats:
    """Log-odds of large (n,) from (n, 2): finite, and distinct where 1 - p underflows."""
    floor = np.finfo(np.float64).tiny
    clipped = np.maximum(probabilities, floor)
    return np.asarray(np.log(clipped[:, 1]) - np.log(clipped[:, 0]))


@dataclass(frozen=True, slots=True, eq=False)
class RankedPolicy:
    """``inner`` with its log-odds of large mapped to ranks in (0, 1).

    ``log_odds`` (R,) rises strictly and ``ranks`` (R,) with it; between the knots the map is
    linear, beyond them it stays.
    """

    inner: Policy
    log_odds: Floats
    ranks: Floats

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def protocol(self) -> str:
        return self.inner.protocol

    def probabilities(self, observations: Observations) -> Floats:
        scores = compute_log_odds(self.inner.probabilities(observations))
        return stack_probabilities(np.interp(scores, self.log_odds, self.ranks))


def rank_policy(policy: Policy, observations: Observations, weights: Floats) -> RankedPolicy:
    """Rank a two-model policy by its own output at the training nodes.

    ``weights`` (n,) is how often each node is met (its reach probability): deep nodes are many and
    rare. A score's rank is the weight below it plus half of its own, over the total.
    """
    if not weights.sum() > 0.0:
        raise ValueError("the weights of the training nodes sum to 0; give reach probabilities")
    scores = compute_log_odds(policy.probabilities(observations))
    knots, group = np.unique(scores, return_inverse=True)
    mass = np.bincount(group, weights=weights, minlength=len(knots))
    ranks = (np.cumsum(mass) - mass / 2.0) / mass.sum()
    return RankedPolicy(policy, knots, ranks)
