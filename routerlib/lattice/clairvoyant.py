"""The clairvoyant router: what the recorded steps would allow to someone who knows the answers.

No policy that chooses from these steps has a higher accuracy, and none has the oracle's accuracy
on a problem for less. Answers are right or wrong, so for each problem only two paths matter: the
cheapest of all and the cheapest right one. Both need a complete lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice.arrays import TERMINAL, FloatArray, Lattice
from routerlib.lattice.replay import (
    Values,
    check_complete,
    compute_edge_costs,
    evaluate_probabilities,
)


@dataclass(frozen=True, eq=False, slots=True)
class Frontier:
    """Best points (mean cost, mean accuracy) of the clairvoyant router, cheapest first.

    Point f maximises accuracy - ``multiplier[f]`` x cost over all choices of one path for each
    problem; ``cost``, ``accuracy``, ``multiplier`` are (F,). Between points the router mixes, so
    the line through them, which is concave, is reached too.
    """

    multiplier: FloatArray
    cost: FloatArray
    accuracy: FloatArray


def oracle(lattice: Lattice, lens: Lens, protocol: DecisionProtocol) -> Values:
    """Return the values (P,) of the cheapest right path of each problem, or of its cheapest path
    where none is right. Raises ``OffRecordError`` on an incomplete lattice."""
    edge_cost = compute_edge_costs(lattice, lens, protocol)
    _, any_action = _find_cheapest(lattice, edge_cost, right_only=False)
    right_cost, right_action = _find_cheapest(lattice, edge_cost, right_only=True)
    solvable = np.isfinite(right_cost)[lattice.node_problem]
    action = np.where(solvable, right_action, any_action)
    return evaluate_probabilities(lattice, np.eye(lattice.n_models)[action], lens, protocol)


def frontier(lattice: Lattice, lens: Lens, protocol: DecisionProtocol) -> Frontier:
    """Return the clairvoyant router's frontier by a Lagrangian sweep that visits every multiplier
    at which a choice changes, from the cheapest paths to the oracle.

    A problem turns from its cheapest path to its cheapest right path, which costs e more, when
    the multiplier falls below 1 / e. Raises ``OffRecordError`` on an incomplete lattice.
    """
    edge_cost = compute_edge_costs(lattice, lens, protocol)
    roots = slice(0, lattice.n_problems)
    any_cost = _find_cheapest(lattice, edge_cost, right_only=False)[0][roots]
    right_cost = _find_cheapest(lattice, edge_cost, right_only=True)[0][roots]
    extra = np.sort((right_cost - any_cost)[np.isfinite(right_cost)])
    free = int((extra == 0).sum())
    steps = extra[free:]
    cost = np.concatenate([[any_cost.sum()], any_cost.sum() + np.cumsum(steps)])
    right = free + np.arange(len(steps) + 1, dtype=np.float64)
    last_of_equal = np.append(steps[1:] != steps[:-1], True) if len(steps) else np.empty(0, bool)
    kept = np.concatenate([[True], last_of_equal])
    multiplier = np.concatenate([[np.inf], 1.0 / steps])
    return Frontier(
        multiplier[kept], cost[kept] / lattice.n_problems, right[kept] / lattice.n_problems
    )


def _find_cheapest(
    lattice: Lattice, edge_cost: FloatArray, *, right_only: bool
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Return the least cost (N,) from each node to an end (a right one, or inf), and the action
    (N,) that starts it; of equally cheap ones the cheapest model's. Backward over the levels."""
    check_complete(lattice, edge_cost)
    total = np.where(lattice.allowed, edge_cost, np.inf)
    if right_only:
        total[(lattice.next_node == TERMINAL) & (lattice.outcome != 1.0)] = np.inf
    best = np.empty(lattice.n_nodes)
    action = np.empty(lattice.n_nodes, dtype=np.intp)
    for depth in range(lattice.depth, -1, -1):
        nodes = lattice.level(depth)
        child = lattice.next_node[nodes]
        total[nodes] += np.where(child >= 0, best[child], 0.0)
        action[nodes] = total[nodes].argmin(axis=1)
        best[nodes] = total[nodes].min(axis=1)
    return best, action
