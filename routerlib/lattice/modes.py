"""Modes that leave a policy fewer decisions: escalate once, or decide at the first steps only.

A mode is a mask on actions, so every evaluation, the oracle and training work as they are. Where
only one action is left nothing is decided, so nothing is probed or drafted: such nodes are billed
as under protocol ``before``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routerlib.lattice.arrays import FORBIDDEN, BoolArray, Lattice


def restrict_one_way(lattice: Lattice) -> Lattice:
    """Return the lattice on which a model can only be followed by itself or a dearer one.

    Nodes that only a forbidden action reaches are gone; forbidden edges are ``FORBIDDEN`` with
    NaN outcome and ledger. Doing it twice changes nothing.
    """
    current = np.maximum(lattice.parent_action, 0)
    return _forbid(lattice, np.arange(lattice.n_models) < current[:, None])


def restrict_depth(lattice: Lattice, depth: int) -> Lattice:
    """Return the lattice with decisions at depths 0..``depth`` only: after that, whoever wrote the
    last step goes on to the end. Depth 0 chooses one model for the whole problem.

    Same conventions as ``restrict_one_way``. ValueError for a depth outside 0..D.
    """
    if not 0 <= depth <= lattice.depth:
        raise ValueError(f"depth is {depth}; this lattice was recorded to depth {lattice.depth}")
    late = lattice.node_depth > depth
    other = np.arange(lattice.n_models) != lattice.parent_action[:, None]
    return _forbid(lattice, late[:, None] & other)


def _forbid(lattice: Lattice, forbidden: BoolArray) -> Lattice:
    """Return the lattice without the actions ``forbidden`` (N, K) and what only they reach."""
    forbidden = forbidden | ~lattice.allowed
    reachable = np.ones(lattice.n_nodes, dtype=np.bool_)
    for depth in range(1, lattice.depth + 1):
        nodes = lattice.level(depth)
        parent = lattice.parent[nodes]
        reachable[nodes] = reachable[parent] & ~forbidden[parent, lattice.parent_action[nodes]]
    kept = np.flatnonzero(reachable)
    part, forbidden = lattice.take_nodes(kept), forbidden[kept]
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
