"""What a path has cost before the next decision, as fields that a policy may see.

The amount depends on the lens and on what the protocol bills, so the fields are added to a lattice
for one lens and one protocol, and are named after the protocol: ``spent_draft`` holds the price of
drafts, which ``before`` and ``probe`` must not show. Invariant: at the end of a solution what was
spent before the last step and that step's cost make the problem's cost in ``lattice.Values``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice.arrays import FloatArray, Lattice
from routerlib.lattice.replay import compute_edge_costs


def compute_spent(lattice: Lattice, lens: Lens, protocol: DecisionProtocol) -> FloatArray:
    """Return (N,): cost in the lens's unit of the path to each node, 0 at the roots and NaN where
    a call that it was billed for is not recorded."""
    cost = compute_edge_costs(lattice, lens, protocol)
    spent = np.zeros(lattice.n_nodes)
    for depth in range(1, lattice.depth + 1):
        nodes = lattice.level(depth)
        parent = lattice.parent[nodes]
        spent[nodes] = spent[parent] + cost[parent, lattice.parent_action[nodes]]
    return spent


def add_spending(
    lattice: Lattice, lens: Lens, protocol: DecisionProtocol, *, budget: float | None = None
) -> Lattice:
    """Return the lattice with the field ``spent_<protocol>`` and, where a problem has a budget in
    the lens's unit, ``budget_left_<protocol>``. Restrict it to one way first: that changes bills.

    Raises ``ValueError`` for a budget that is not finite.
    """
    if budget is not None and not np.isfinite(budget):
        raise ValueError(f"budget is {budget}: give a finite cost per problem, or None")
    spent = compute_spent(lattice, lens, protocol)
    fields = {f"spent_{protocol}": spent}
    if budget is not None:
        fields[f"budget_left_{protocol}"] = budget - spent
    return replace(lattice, fields={**lattice.fields, **fields})
