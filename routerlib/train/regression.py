"""Regressing the advantage of the large model on what a policy sees.

Either regressor gives a policy whose log-odds of large are the predicted advantage / temperature,
so its probabilities are the improved policy and its order is the order of the advantages.
Invariants: nodes count by their weight; all randomness comes from ``seed``; float64 throughout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from routerlib.features import Observations, Standardiser
from routerlib.policies.network import Activation, MLPPolicy, build_network
from routerlib.policies.protocol import Policy
from routerlib.policies.ranking import compute_log_odds
from routerlib.policies.trees import Trees, TreesPolicy
from routerlib.train.checks import check_activation, check_fields

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MLPRegression:
    """Least squares by the policy network.

    ``width`` units in each hidden layer; ``activation`` tanh or silu; ``n_steps`` steps of Adam at
    ``learning_rate``, each on ``batch_size`` nodes drawn in proportion to their weight;
    ``weight_decay`` the L2 penalty (AdamW); ``dropout`` the share of inputs hidden at each step.
    """

    width: int = 64
    activation: Activation = "tanh"
    learning_rate: float = 0.003
    n_steps: int = 150
    batch_size: int = 1024
    weight_decay: float = 1.0
    dropout: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "width", "n_steps", "batch_size")
        check_fields(self, "a number > 0", "learning_rate")
        check_fields(self, "a number >= 0", "weight_decay")
        check_fields(self, "a share in [0, 1)", "dropout")
        check_activation(self.activation)


@dataclass(frozen=True, slots=True)
class TreesRegression:
    """Least squares by gradient-boosted trees (scikit-learn's HistGradientBoostingRegressor).

    ``n_trees`` trees of at most ``max_leaf_nodes`` leaves, each leaf of at least
    ``min_samples_leaf`` nodes of the lattice; ``learning_rate`` shrinks each tree, ``l2`` each
    leaf (in nodes of mean weight); ``max_features`` is the share of features tried at each split.
    """

    n_trees: int = 100
    max_leaf_nodes: int = 8
    min_samples_leaf: int = 200
    learning_rate: float = 0.05
    l2: float = 100.0
    max_features: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "n_trees", "min_samples_leaf")
        check_fields(self, "a whole number >= 2", "max_leaf_nodes")
        check_fields(self, "a number > 0", "learning_rate")
        check_fields(self, "a number >= 0", "l2")
        check_fields(self, "a share in (0, 1]", "max_features")


Regression = MLPRegression | TreesRegression


class _Settings(TypedDict):
    temperature: float
    seed: int
    name: str


def regress_advantage(
    regression: Regression,
    observations: Observations,
    advantage: Floats,
    weights: Floats,
    *,
    temperature: float,
    seed: int,
    name: str,
) -> Policy:
    """Fit the advantage (n,) of large, in accuracy, at n nodes that weigh ``weights`` (n,) >= 0.

    Every one of the observed fields is an input. ``ValueError`` when no node weighs anything.
    """
    if not weights.sum() > 0.0:
        raise ValueError(f"the weights of {len(weights)} nodes sum to 0: nothing to fit")
    settings: _Settings = {"temperature": temperature, "seed": seed, "name": name}
    if isinstance(regression, MLPRegression):
        return _fit_mlp(regression, observations, advantage, weights, **settings)
    return _fit_trees(regression, observations, advantage, weights, **settings)


def predict_advantage(policy: Policy, observations: Observations, temperature: float) -> Floats:
    """What a policy made by ``regress_advantage`` predicts at n nodes: (n,), in accuracy."""
    return compute_log_odds(policy.probabilities(observations)) * temperature


def _fit_mlp(
    regression: MLPRegression,
    observations: Observations,
    advantage: Floats,
    weights: Floats,
    *,
    temperature: float,
    seed: int,
    name: str,
) -> MLPPolicy:
    generator = torch.Generator().manual_seed(seed)
    standardiser = Standardiser.fit(observations)
    inputs = torch.from_numpy(standardiser.transform(observations))
    scale = float(np.sqrt(np.average(advantage**2, weights=weights))) or 1.0
    targets, share = torch.from_numpy(advantage / scale), torch.from_numpy(weights)
    n_features = inputs.shape[1]
    network = build_network(n_features, 2, regression.width, regression.activation, generator)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=regression.learning_rate, weight_decay=regression.weight_decay
    )
    for _ in range(regression.n_steps):
        batch = torch.multinomial(share, regression.batch_size, True, generator=generator)
        shown = torch.rand(n_features, generator=generator) >= regression.dropout
        logits = network(inputs[batch] * shown)
        predicted = logits[:, 1] - logits[:, 0]
        optimiser.zero_grad()
        loss = (predicted - targets[batch]).square().mean()
        loss.backward()
        optimiser.step()
    network.requires_grad_(False)
    for parameter in network[-1].parameters():
        parameter.mul_(scale / temperature)
    return MLPPolicy(
        name,
        observations.protocol,
        standardiser,
        network,
        regression.width,
        regression.activation,
        asdict(regression) | {"seed": seed},
    )


def _fit_trees(
    regression: TreesRegression,
    observations: Observations,
    advantage: Floats,
    weights: Floats,
    *,
    temperature: float,
    seed: int,
    name: str,
) -> TreesPolicy:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=regression.n_trees,
        max_leaf_nodes=regression.max_leaf_nodes,
        min_samples_leaf=regression.min_samples_leaf,
        learning_rate=regression.learning_rate,
        l2_regularization=regression.l2,
        max_features=regression.max_features,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(observations.values, advantage, sample_weight=weights / weights.mean())
    return TreesPolicy(
        name,
        observations.protocol,
        observations.names,
        _copy_trees([predictors[0].nodes for predictors in model._predictors]),
        float(np.ravel(model._baseline_prediction)[0]),
        temperature,
        asdict(regression) | {"seed": seed},
    )


def _copy_trees(grown: list[NDArray[np.void]]) -> Trees:
    """Put the library's node tables, one for each tree, one after the other."""
    roots = np.cumsum([0, *(len(nodes) for nodes in grown[:-1])])
    nodes = np.concatenate(grown)
    first = np.repeat(roots, [len(nodes) for nodes in grown])
    itself = np.arange(len(nodes))
    is_leaf = nodes["is_leaf"].astype(np.bool_)
    return Trees(
        roots=roots.astype(np.int64),
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        nan_goes_left=nodes["missing_go_to_left"].astype(np.bool_),
        left=np.where(is_leaf, itself, first + nodes["left"]).astype(np.int64),
        right=np.where(is_leaf, itself, first + nodes["right"]).astype(np.int64),
        value=nodes["value"].astype(np.float64),
        depth=int(nodes["depth"].max()),
    )
