"""Several trained policies as one, with its output ranked on the training problems."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice import Lattice
from routerlib.policies.network import EnsemblePolicy
from routerlib.policies.protocol import Policy
from routerlib.policies.ranking import RankedPolicy, rank_policy
from routerlib.train.tree import build_tree, compute_reach, compute_softmax


def rank_ensemble(
    name: str,
    members: Sequence[Policy],
    lattice: Lattice,
    lens: Lens,
    protocol: DecisionProtocol,
) -> RankedPolicy:
    """Average the members' log-odds and rank the average at the nodes of the training lattice.

    A node weighs what the coin policy reaches it with: the coin meets every path.
    """
    tree = build_tree(lattice, lens, protocol)
    reach = compute_reach(tree, compute_softmax(tree, torch.zeros_like(tree.reward)))
    policy = EnsemblePolicy(name, tuple(members))
    return rank_policy(policy, lattice.observe(protocol), reach.numpy())
