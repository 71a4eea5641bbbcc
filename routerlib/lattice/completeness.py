"""What of a lattice is recorded, and what a collector still has to ask for.

On an incomplete lattice only the missing edges that are next in line are known: what lies behind
them is not, so the counts are lower bounds of the work left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routerlib.features import DecisionProtocol
from routerlib.lattice.arrays import MISSING, BoolArray, Lattice
from routerlib.records import StepKind


@dataclass(frozen=True, eq=False, slots=True)
class Coverage:
    """``complete`` (P,): problems of which nothing is missing; ``n_edges``: known edges of the
    unrolled trees; ``n_missing``: those that lack a call which the protocol bills."""

    complete: BoolArray
    n_edges: int
    n_missing: int

    @property
    def share_problems(self) -> float:
        """Share of complete problems."""
        return float(self.complete.mean())

    @property
    def share_edges(self) -> float:
        """Share of known edges that are recorded."""
        return 1.0 - self.n_missing / self.n_edges


def coverage(lattice: Lattice, protocol: DecisionProtocol = "before") -> Coverage:
    """Return how much of a lattice is recorded, in the mode it is in, to decide under a protocol.

    ``lattice.select(coverage(lattice, "judge").complete)`` has the problems that are judged
    throughout.
    """
    unbilled = np.isnan(lattice.ledger[protocol]).any(axis=(2, 3))
    missing = (lattice.next_node == MISSING) | (unbilled & lattice.allowed)
    complete = np.ones(lattice.n_problems, dtype=np.bool_)
    complete[lattice.node_problem[missing.any(axis=1)]] = False
    return Coverage(complete, int(lattice.allowed.sum()), int(missing.sum()))


def missing_expansions(lattice: Lattice) -> list[tuple[str, str, str, StepKind]]:
    """Return what to collect next: (problem id, state id, model id, kind), each once, in the order
    of the nodes that need it."""
    found: dict[tuple[str, str, str, StepKind], None] = {}
    for node, action in np.argwhere(lattice.next_node == MISSING).tolist():
        kind = lattice.step_kind(int(lattice.node_depth[node]), action)
        problem_id = lattice.problem_ids[lattice.node_problem[node]]
        found[(problem_id, str(lattice.node_state[node]), lattice.model_ids[action], kind)] = None
    return list(found)
