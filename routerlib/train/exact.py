"""Training by exact gradient: no sampling, the return of a policy is a formula of its weights.

On a lattice the probability of reaching every node is a forward pass over the levels, so expected
accuracy and expected cost of every problem are differentiable. The objective is
``mean accuracy - lambda * mean cost`` at one lambda: the exchange rate of the chord, where always
small and always large are worth the same, so that only the *order* of the decisions pays. One
policy is trained and then thresholded; a policy per cost weight is bang-bang and worse.

Invariants: early stopping looks at an inner part of the training problems and nothing else; all
randomness comes from a generator made from ``seed``; float64 throughout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Standardiser, get_feature_names
from routerlib.lattice import Lattice
from routerlib.policies.network import Activation, MLPPolicy, build_network
from routerlib.policies.ranking import RankedPolicy
from routerlib.train.checks import check_activation, check_features, check_fields
from routerlib.train.ensemble import rank_ensemble
from routerlib.train.tree import (
    Tree,
    build_tree,
    compute_exchange_rate,
    compute_expectations,
    compute_softmax,
)

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExactConfig:
    """One training run.

    ``width`` units in each hidden layer; ``activation`` tanh or silu; ``learning_rate`` of Adam,
    ``n_steps`` full-batch steps at most; ``weight_decay`` the L2 penalty on the weights (AdamW);
    ``entropy_bonus`` accuracy paid per nat of mean entropy of the decisions met;
    ``validation_share`` of the training problems is kept apart for early stopping, which looks
    every ``check_every`` steps and gives up after ``patience`` looks without a better objective (0
    keeps none apart and runs all steps); ``exchange_rate_factor`` multiplies the chord's lambda;
    ``dropout`` is the share of inputs hidden at each step; ``features`` names the inputs (None: all
    of the default set that the protocol shows and that are recorded of any problem to fit).
    """

    width: int = 64
    activation: Activation = "tanh"
    learning_rate: float = 0.003
    n_steps: int = 200
    weight_decay: float = 1.0
    entropy_bonus: float = 0.01
    validation_share: float = 0.2
    check_every: int = 5
    patience: int = 8
    exchange_rate_factor: float = 1.0
    dropout: float = 0.3
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "width", "n_steps", "check_every", "patience")
        check_fields(self, "a number > 0", "learning_rate", "exchange_rate_factor")
        check_fields(self, "a number >= 0", "weight_decay", "entropy_bonus")
        check_fields(self, "a share in [0, 1)", "validation_share", "dropout")
        check_activation(self.activation)
        check_features(self.features)


def _split(n_problems: int, share: float, generator: torch.Generator) -> tuple[Indices, Indices]:
    """Cut the problems into those to fit and those for early stopping, each in ascending order."""
    n_held = round(share * n_problems)
    if share > 0.0 and not 1 <= n_held < n_problems:
        raise ValueError(
            f"{n_problems} training problems are too few to keep {share:.0%} of them apart; train "
            "on more or set validation_share to 0"
        )
    order = torch.randperm(n_problems, generator=generator).numpy()
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def train_exact(
    lattice: Lattice,
    config: ExactConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    name: str = "MLP",
) -> MLPPolicy:
    """Train one network on a complete lattice of training problems.

    Deterministic by ``seed`` for one number of torch threads. Raises OffRecordError on missing
    expansions and ValueError when large is no better or no dearer than small.
    """
    generator = torch.Generator().manual_seed(seed)
    exchange_rate = compute_exchange_rate(build_tree(lattice, lens, protocol))
    rate = exchange_rate * config.exchange_rate_factor
    parts = [
        lattice.select(i) for i in _split(lattice.n_problems, config.validation_share, generator)
    ]
    fit, held = (build_tree(part, lens, protocol) for part in parts)
    default = get_feature_names("default", protocol)
    recorded = parts[0].observe(protocol).list_recorded()
    names = config.features or tuple(name for name in recorded if name in default)
    seen = [part.observe(protocol).take(names) for part in parts]
    standardiser = Standardiser.fit(seen[0])
    fit_inputs, held_inputs = (torch.from_numpy(standardiser.transform(o)) for o in seen)
    network = build_network(
        len(names), lattice.n_models, config.width, config.activation, generator
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )

    def compute_objective(tree: Tree, inputs: torch.Tensor, bonus: float) -> torch.Tensor:
        decisions = compute_softmax(tree, network(inputs))
        accuracy, cost, entropy = (x.mean() for x in compute_expectations(tree, decisions))
        return accuracy - rate * cost + bonus * entropy

    best, best_weights, waited = -np.inf, network.state_dict(), 0
    for step in range(1, config.n_steps + 1):
        inputs = fit_inputs
        if config.dropout > 0.0:
            inputs = inputs * (torch.rand(len(names), generator=generator) >= config.dropout)
        optimiser.zero_grad()
        loss = -compute_objective(fit, inputs, config.entropy_bonus)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if held.n_problems == 0 or step % config.check_every != 0:
            continue
        with torch.no_grad():
            value = float(compute_objective(held, held_inputs, 0.0))
        waited += 1
        if value > best:
            best, waited = value, 0
            best_weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        if waited >= config.patience:
            break
    if np.isfinite(best):
        network.load_state_dict(best_weights)
    network.requires_grad_(False)
    stored = asdict(config) | {"seed": seed, "lens": lens.name, "exchange_rate": exchange_rate}
    return MLPPolicy(name, protocol, standardiser, network, config.width, config.activation, stored)


def train_ensemble(
    lattice: Lattice,
    config: ExactConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seeds: tuple[int, ...],
    *,
    name: str = "MLP",
) -> RankedPolicy:
    """Train one network per seed, average them, and rank the average on the training problems.

    Each member keeps other problems apart, so that together they use all.
    """
    members = tuple(
        train_exact(lattice, config, lens, protocol, seed, name=f"{name} seed {seed}")
        for seed in seeds
    )
    return rank_ensemble(name, members, lattice, lens, protocol)
