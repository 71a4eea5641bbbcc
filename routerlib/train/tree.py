"""The forward pass over a lattice in torch: a policy's value as a formula of its decisions.

The backward pass over the same tree gives the value of each action. Invariants: nodes are sorted by
depth and each has one parent, so a level's reach is one gather from the level above; the numbers
are those of ``lattice.evaluate_probabilities``, but differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice import Lattice, Values, compute_edge_costs, evaluate_probabilities
from routerlib.lattice.replay import check_complete


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """What the forward pass needs of a lattice, as tensors; nodes are sorted by depth.

    ``offsets`` (D + 2) bounds the levels; ``parent`` (N,) counts within the level above and
    ``action`` (N,) says by which model (both 0 at the roots); ``reward`` (N, K) is the outcome of
    terminal edges and 0 elsewhere; ``cost`` (N, K) is in the lens's unit; ``allowed`` (N, K) says
    which actions the mode permits; ``problem`` (N,).
    """

    offsets: tuple[int, ...]
    parent: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    cost: torch.Tensor
    allowed: torch.Tensor
    problem: torch.Tensor
    n_problems: int


def build_tree(lattice: Lattice, lens: Lens, protocol: DecisionProtocol) -> Tree:
    """Turn a complete lattice into tensors. OffRecordError when a call that is billed is missing: a
    softmax policy goes everywhere with some probability."""
    cost = compute_edge_costs(lattice, lens, protocol)
    check_complete(lattice, cost)
    level_above = lattice.level_offsets[np.maximum(lattice.node_depth - 1, 0)]
    return Tree(
        tuple(int(offset) for offset in lattice.level_offsets),
        torch.from_numpy(np.maximum(lattice.parent - level_above, 0).astype(np.int64)),
        torch.from_numpy(np.maximum(lattice.parent_action, 0).astype(np.int64)),
        torch.from_numpy(np.nan_to_num(lattice.outcome, nan=0.0)),
        torch.from_numpy(np.where(lattice.allowed, cost, 0.0)),
        torch.from_numpy(lattice.allowed),
        torch.from_numpy(lattice.node_problem.astype(np.int64)),
        lattice.n_problems,
    )


def compute_reach(tree: Tree, probabilities: torch.Tensor) -> torch.Tensor:
    """Probability of reaching each node (N,) under decisions (N, K), differentiable.

    reach(root) = 1 and reach(child) = reach(parent) * pi(action | parent).
    """
    start, end = tree.offsets[0], tree.offsets[1]
    levels = [torch.ones(end - start, dtype=probabilities.dtype)]
    for low, high in zip(tree.offsets[1:-1], tree.offsets[2:], strict=True):
        above = tree.parent[low:high]
        chosen = probabilities[start + above, tree.action[low:high]]
        levels.append(levels[-1][above] * chosen)
        start = low
    return torch.cat(levels)


def compute_action_values(
    tree: Tree, probabilities: torch.Tensor, gains: torch.Tensor
) -> torch.Tensor:
    """Value (N, K) of each action when decisions (N, K) follow: one backward pass over the levels.

    Q(node, a) = gain of that edge + V(child), V(node) = sum_a pi(a | node) Q(node, a), with
    ``gains`` (N, K) in any unit, 0 on edges that are not allowed (whose values mean nothing).
    """
    values = gains.clone()
    for depth in range(len(tree.offsets) - 2, 0, -1):
        start, low, high = tree.offsets[depth - 1 : depth + 2]
        state_value = (probabilities[low:high] * values[low:high]).sum(dim=1)
        # Each edge has one child, so no two values meet.
        values[start + tree.parent[low:high], tree.action[low:high]] += state_value
    return values


def compute_expectations(
    tree: Tree, probabilities: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Expected accuracy, expected cost and summed entropy (nats) of the decisions: (P,) each."""
    reach = compute_reach(tree, probabilities)
    mass = reach[:, None] * probabilities
    # The floor keeps the gradient finite where a probability is exactly 0.
    entropy = -(mass * torch.log(probabilities.clamp_min(1e-300))).sum(dim=1)
    zeros = torch.zeros(tree.n_problems, dtype=probabilities.dtype)
    accuracy = zeros.index_add(0, tree.problem, (mass * tree.reward).sum(dim=1))
    cost = zeros.index_add(0, tree.problem, (mass * tree.cost).sum(dim=1))
    return accuracy, cost, zeros.index_add(0, tree.problem, entropy)


def compute_softmax(tree: Tree, logits: torch.Tensor) -> torch.Tensor:
    """Decisions (N, K) from logits (N, K), among what is allowed."""
    return move_to_allowed(torch.softmax(logits, dim=1), tree.allowed)


def move_to_allowed(probabilities: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Decisions (n, K) with what falls on actions that are not allowed (n, K) moved to the
    cheapest allowed one, as in ``lattice.mask_probabilities``."""
    if bool(allowed.all()):
        return probabilities
    kept = probabilities * allowed
    stay = torch.nn.functional.one_hot(allowed.int().argmax(dim=1), allowed.shape[1])
    return kept + stay * (1.0 - kept.sum(dim=1, keepdim=True))


def evaluate_constants(lattice: Lattice, lens: Lens) -> tuple[Values, Values]:
    """Values (P,) of always the cheapest and always the dearest model, under protocol ``before``:
    nobody probes who never asks."""
    always = np.eye(lattice.n_models)
    cheapest, dearest = (
        evaluate_probabilities(lattice, np.tile(one, (lattice.n_nodes, 1)), lens, "before")
        for one in (always[0], always[-1])
    )
    return cheapest, dearest


def compute_exchange_rate(tree: Tree) -> float:
    """Accuracy gained per unit of cost from always cheapest to always dearest, the chord's slope.

    ValueError when the dear model is not both better and dearer on these problems.
    """
    ends = []
    for model in (0, tree.reward.shape[1] - 1):
        wish = torch.zeros_like(tree.reward)
        wish[:, model] = 1e6
        accuracy, cost, _ = compute_expectations(tree, compute_softmax(tree, wish))
        ends.append((float(accuracy.mean()), float(cost.mean())))
    gain, price = ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]
    if not (gain > 0.0 and price > 0.0):
        raise ValueError(
            f"on {tree.n_problems} training problems always large gains {gain:.4g} in accuracy at "
            f"{price:.4g} more cost: there is nothing to trade; use more problems, another pair or "
            "another lens"
        )
    return gain / price
