"""Networks that nobody trained: what the choice of the best of many can do without any learning."""

from __future__ import annotations

from dataclasses import asdict

import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice
from routerlib.policies.network import MLPPolicy, build_network
from routerlib.train.exact import ExactConfig


def make_untrained(
    lattice: Lattice,
    config: ExactConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    name: str = "untrained",
) -> MLPPolicy:
    """Return a network as ``train_exact`` begins with: random weights by ``seed``, inputs
    standardised on the training problems of ``lattice``. Takes what a trainer takes; the ``lens``
    makes no difference."""
    del lens
    standardiser = Standardiser.fit(lattice.observe(protocol).take_inputs(config.features))
    network = build_network(
        len(standardiser.names),
        lattice.n_models,
        config.width,
        config.activation,
        torch.Generator().manual_seed(seed),
    )
    network.requires_grad_(False)
    return MLPPolicy(
        name,
        protocol,
        standardiser,
        network,
        config.width,
        config.activation,
        asdict(config) | {"seed": seed, "n_steps": 0},
    )
