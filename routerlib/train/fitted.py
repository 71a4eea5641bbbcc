"""Fitted policy iteration: exact action values of the lattice, regressed on what a policy sees.

Nothing is sampled. One round computes the exact advantage of the large model at every node when the
current policy goes on from there (a backward pass over the lattice, accuracy minus lambda times
cost, lambda being the chord's exchange rate as in ``train.exact``), regresses it on the features
of the nodes, weighted by how often the current policy meets them, and improves the policy:

    pi(large | node) = sigma(predicted advantage / temperature).

Soft policy iteration, with the problems dealt into folds: what the policy does on a problem is
decided by a regressor that never saw that problem, or the next round would evaluate a policy that
knows the answers. Invariants: all randomness comes from ``seed``; two models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Observations
from routerlib.lattice import Lattice
from routerlib.policies.network import EnsemblePolicy
from routerlib.policies.protocol import Policy
from routerlib.train.checks import check_features, check_fields
from routerlib.train.regression import (
    Regression,
    TreesRegression,
    predict_advantage,
    regress_advantage,
)
from routerlib.train.tree import (
    Tree,
    build_tree,
    compute_action_values,
    compute_exchange_rate,
    compute_reach,
    compute_softmax,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FittedConfig:
    """One training run.

    ``regression`` says which regressor and how; ``n_rounds`` of evaluation and improvement, the
    first from the coin; ``n_folds`` the problems are dealt into; ``temperature`` in accuracy:
    where the advantage is this much, the odds of large are e to 1; ``exchange_rate_factor``
    multiplies the chord's lambda; ``features`` names the inputs (None: all of the default set that
    the protocol shows and that are recorded of any problem).
    """

    regression: Regression = field(default_factory=TreesRegression)
    n_rounds: int = 3
    n_folds: int = 5
    temperature: float = 0.05
    exchange_rate_factor: float = 1.0
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "n_rounds")
        check_fields(self, "a whole number >= 2", "n_folds")
        check_fields(self, "a number > 0", "temperature", "exchange_rate_factor")
        check_features(self.features)


def compute_advantage(tree: Tree, decisions: torch.Tensor, rate: float) -> tuple[Floats, Floats]:
    """Exact advantage (N,) of large over small when decisions (N, 2) follow, in accuracy, and the
    probability (N,) of meeting each node, 0 where nothing is left to decide."""
    values = compute_action_values(tree, decisions, tree.reward - rate * tree.cost)
    met = compute_reach(tree, decisions) * tree.allowed.all(dim=1)
    return (values[:, 1] - values[:, 0]).numpy(), met.numpy()


def deal_folds(n_problems: int, n_folds: int, generator: np.random.Generator) -> Indices:
    """The fold (P,) of each problem, in sizes that differ by one at most."""
    if n_folds > n_problems:
        raise ValueError(f"n_folds is {n_folds} for {n_problems} problems; give 2 up to that many")
    return np.asarray(generator.permutation(n_problems) % n_folds)


def regress_by_fold(
    regression: Regression,
    observations: Observations,
    advantage: Floats,
    weights: Floats,
    fold_of: Indices,
    *,
    temperature: float,
    seed: int,
    name: str,
) -> tuple[Floats, tuple[Policy, ...]]:
    """Fit once without each fold; ``fold_of`` (N,) is that of a node's problem.

    Returns the advantage (N,) that is predicted at each node by the member that did not see its
    fold, and the members.
    """
    predicted, members = np.zeros(len(advantage)), []
    for fold in range(int(fold_of.max()) + 1):
        held = fold_of == fold
        member = regress_advantage(
            regression,
            observations.rows(~held),
            advantage[~held],
            weights[~held],
            temperature=temperature,
            seed=seed * (int(fold_of.max()) + 1) + fold,
            name=f"{name} without fold {fold}",
        )
        predicted[held] = predict_advantage(member, observations.rows(held), temperature)
        members.append(member)
    return predicted, tuple(members)


def train_fitted(
    lattice: Lattice,
    config: FittedConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    name: str = "fitted",
) -> EnsemblePolicy:
    """Train on a complete lattice of training problems with two models.

    The policy is the mean of the last round's members, one for each fold that it did not see.
    Raises OffRecordError on missing expansions and ValueError for other than two models, for fewer
    problems than folds, or when large is no better or no dearer than small.
    """
    if lattice.n_models != 2:
        raise ValueError(
            f"the advantage is that of one model over another and this lattice has "
            f"{lattice.n_models}: build it with a pair"
        )
    tree = build_tree(lattice, lens, protocol)
    rate = compute_exchange_rate(tree) * config.exchange_rate_factor
    observations = lattice.observe(protocol).take_inputs(config.features)
    generator = np.random.default_rng(seed)
    fold_of = deal_folds(lattice.n_problems, config.n_folds, generator)[lattice.node_problem]
    log_odds = torch.zeros(lattice.n_nodes, dtype=torch.float64)  # the coin
    for _ in range(config.n_rounds):
        logits = torch.stack((torch.zeros_like(log_odds), log_odds), dim=1)
        decisions = compute_softmax(tree, logits)
        advantage, weights = compute_advantage(tree, decisions, rate)
        predicted, members = regress_by_fold(
            config.regression,
            observations,
            advantage,
            weights,
            fold_of,
            temperature=config.temperature,
            seed=seed,
            name=name,
        )
        log_odds = torch.from_numpy(predicted / config.temperature)
    return EnsemblePolicy(name, members)
