"""How much of the exact advantage of the large model can be told from what a policy sees?

The advantage is that of one step by the large model instead of the small one when a coin goes on
from there, accuracy minus the chord's rate times cost; its expectation given the features is all
that any policy on those features can use. Invariants: a problem is predicted by a regressor that
never saw it, from the default set of features; nodes weigh what the coin reaches them with;
intervals resample problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from routerlib import metrics
from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice import Lattice
from routerlib.train.fitted import compute_advantage, deal_folds, regress_by_fold
from routerlib.train.regression import Regression
from routerlib.train.tree import build_tree, compute_exchange_rate, compute_softmax


def explain_advantage(
    lattice: Lattice,
    regressions: Mapping[str, Regression],
    lens: Lens,
    protocols: Sequence[DecisionProtocol],
    *,
    seed: int = 0,
    n_folds: int = 5,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """Out-of-fold R^2 of the advantage: regressor, protocol, value, low, high, n (problems).

    R^2 = 1 - sum of squared errors / sum of squared deviations from the mean. It is negative where
    the regressor is worse than the mean, and 1 only if the features told the outcome. All
    regressors and protocols share folds and resamples.
    """
    fold_of = deal_folds(lattice.n_problems, n_folds, np.random.default_rng(seed))
    draws = metrics.draw_resamples(lattice.n_problems, n_resamples, np.random.default_rng(seed))
    shares = metrics.compute_resample_weights(draws)
    rows = []
    for protocol in protocols:
        tree = build_tree(lattice, lens, protocol)
        coin = compute_softmax(tree, torch.zeros_like(tree.reward))
        advantage, weights = compute_advantage(tree, coin, compute_exchange_rate(tree))
        observations = lattice.observe(protocol).take_inputs()
        mean = np.average(advantage, weights=weights)
        for name, regression in regressions.items():
            predicted, _ = regress_by_fold(
                regression,
                observations,
                advantage,
                weights,
                fold_of[lattice.node_problem],
                temperature=1.0,
                seed=seed,
                name=name,
            )
            error, spread = (
                np.bincount(
                    lattice.node_problem,
                    weights * (advantage - guess) ** 2,
                    minlength=lattice.n_problems,
                )
                for guess in (predicted, mean)
            )
            value = 1.0 - error.sum() / spread.sum()
            replicates = 1.0 - (shares @ error) / (shares @ spread)
            estimate = metrics.compute_estimate(value, replicates, lattice.n_problems)
            rows.append(
                {
                    "regressor": name,
                    "protocol": protocol,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                }
            )
    return pd.DataFrame(rows)
