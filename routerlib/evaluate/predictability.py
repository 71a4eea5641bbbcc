"""How much of the exact advantage of the large model can be told from what a policy sees?

The advantage is that of one step by the large model instead of the small one when a coin goes on
from there, accuracy minus the chord's rate times cost; its expectation given the features is all
that any policy on those features can use. Much of it is what a switch costs, which the position
tells alone; what says more is worth knowing. Invariants: a problem is predicted by a regressor that
never saw it; nodes weigh what the coin reaches them with; intervals resample problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch

from routerlib import metrics
from routerlib.costs import Lens
from routerlib.features import (
    FIELDS,
    DecisionProtocol,
    Observations,
    check_protocol,
    get_feature_names,
)
from routerlib.lattice import Lattice
from routerlib.train.fitted import compute_advantage, deal_folds, regress_by_fold
from routerlib.train.regression import Regression
from routerlib.train.tree import build_tree, compute_exchange_rate, compute_softmax

PROBLEM_ONLY = "problem_only"


def explain_advantage(
    lattice: Lattice,
    regressions: Mapping[str, Regression],
    lens: Lens,
    protocols: Sequence[DecisionProtocol],
    *,
    feature_sets: Sequence[str] = ("default",),
    seed: int = 0,
    n_folds: int = 5,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """Out-of-fold R^2 of the advantage: regressor, protocol, features, value, low, high, n
    (problems).

    ``feature_sets`` are those of ``features.FEATURE_SETS`` or ``problem_only``, what is known of a
    problem before its first step, each as far as it is recorded.
    R^2 = 1 - sum of squared errors / sum of squared deviations from the mean. It is negative where
    the regressor is worse than the mean, and 1 only if the features told the outcome. All
    rows share folds and resamples. ValueError for an unknown set.
    """
    fold_of = deal_folds(lattice.n_problems, n_folds, np.random.default_rng(seed))
    draws = metrics.draw_resamples(lattice.n_problems, n_resamples, np.random.default_rng(seed))
    shares = metrics.compute_resample_weights(draws)
    rows = []
    for protocol in protocols:
        tree = build_tree(lattice, lens, protocol)
        coin = compute_softmax(tree, torch.zeros_like(tree.reward))
        advantage, weights = compute_advantage(tree, coin, compute_exchange_rate(tree))
        mean = np.average(advantage, weights=weights)
        observed = lattice.observe(protocol)
        for feature_set, (name, regression) in product(feature_sets, regressions.items()):
            predicted, _ = regress_by_fold(
                regression,
                take_feature_set(observed, feature_set),
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
                    "features": feature_set,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                }
            )
    return pd.DataFrame(rows)


def take_feature_set(observations: Observations, feature_set: str) -> Observations:
    """The observations with the recorded fields of a named set, or of ``problem_only``."""
    if feature_set == "default":
        return observations.take_inputs()
    recorded = observations.list_recorded()
    if feature_set == PROBLEM_ONLY:
        return observations.take(tuple(n for n in recorded if FIELDS[n].group == "problem"))
    wanted = get_feature_names(feature_set, check_protocol(observations.protocol))
    return observations.take(tuple(n for n in recorded if n in wanted))
