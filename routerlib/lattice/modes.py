"""The one-way mode: a policy may escalate to a dearer model and never comes back.

It is a mask on actions, so every evaluation, the oracle and training work as they are. Where only
one action is left nothing is decided, so nothing is probed or drafted: such nodes are billed as
under protocol ``before``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routerlib.lattice.arrays import FORBIDDEN, Lattice


def restrict_one_way(lattice: Lattice) -> Lattice:
    """Return the lattice on which a model can only be followed by itself or a dearer one.

    Nodes that only a forbidden action reaches are gone; forbidden edges are ``FORBIDDEN`` with
    NaN outcome and ledger. Doing it twice changes nothing.
    """
    current = np.maximum(lattice.parent_action, 0)
    reachable = np.ones(lattice.n_nodes, dtype=np.bool_)
    for depth in range(1, lattice.depth + 1):
        nodes = lattice.level(depth)
        parent = lattice.parent[nodes]
        reachable[nodes] = reachable[parent] & (current[nodes] >= current[parent])
    part = lattice.take_nodes(np.flatnonzero(reachable))
    actions = np.arange(lattice.n_models)
    forbidden = actions[None, :] < np.maximum(part.parent_action, 0)[:, None]
    forced = forbidden.sum(axis=1) == lattice.n_models - 1
    ledger = {}
    for protocol, tokens in part.ledger.items():
        billed = np.where(forced[:, None, None, None], part.ledger["before"], tokens)
        ledger[protocol] = np.where(forbidden[:, :, None, None], np.nan, billed)
    return replace(
        part,
        next_node=np.where(forbidden, FORBIDDEN, part.next_node).astype(np.int32),
        outcome=np.where(forbidden, np.nan, part.outcome),
        ledger=ledger,
    )
