"""Training by exact gradient: no sampling, the return of a policy is a formula of its weights.

On a lattice the probability of reaching every node is a forward pass over the levels, so expected
accuracy and expected cost of every problem are differentiable. The objective is
``mean accuracy - lambda * mean cost`` at one lambda: the exchange rate of the chord, where always
small and always large are worth the same, so that only the *order* of the decisions pays. One
policy is trained and then thresholded; a policy per cost weight is bang-bang and worse.

Invariants: those of ``train.ascent``; all randomness comes from a generator made from ``seed``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice
from routerlib.policies.network import MLPPolicy, build_network
from routerlib.policies.ranking import RankedPolicy
from routerlib.train.ascent import AscentConfig, climb, split_problems
from routerlib.train.checks import check_fields
from routerlib.train.ensemble import rank_ensemble
from routerlib.train.tree import (
    Tree,
    build_tree,
    compute_exchange_rate,
    compute_expectations,
    compute_softmax,
)


@dataclass(frozen=True, slots=True)
class ExactConfig(AscentConfig):
    """One training run: how the network climbs (``AscentConfig``), and towards what.

    ``exchange_rate_factor`` multiplies the chord's lambda.
    """

    exchange_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        AscentConfig.__post_init__(self)  # slots replace the class, which super() misses
        check_fields(self, "a number > 0", "exchange_rate_factor")


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
        lattice.select(i)
        for i in split_problems(lattice.n_problems, config.validation_share, generator)
    ]
    fit, held = (build_tree(part, lens, protocol) for part in parts)
    standardiser = Standardiser.fit(parts[0].observe(protocol).take_inputs(config.features))
    names = standardiser.names
    fit_inputs, held_inputs = (
        torch.from_numpy(standardiser.transform(part.observe(protocol))) for part in parts
    )
    network = build_network(
        len(names), lattice.n_models, config.width, config.activation, generator
    )

    def compute_objective(tree: Tree, inputs: torch.Tensor, bonus: float) -> torch.Tensor:
        decisions = compute_softmax(tree, network(inputs))
        accuracy, cost, entropy = (x.mean() for x in compute_expectations(tree, decisions))
        return accuracy - rate * cost + bonus * entropy

    climb(
        network,
        config,
        generator,
        lambda shown: compute_objective(fit, fit_inputs * shown, config.entropy_bonus),
        lambda: float(compute_objective(held, held_inputs, 0.0)),
        n_features=len(names),
    )
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
