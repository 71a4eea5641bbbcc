"""The unrolled decision trees of all problems as flat arrays.

A node is one path of decisions on one problem; two paths with the same text share their recorded
steps but stay two nodes, because what a policy has seen and what each model has read differ.
Invariants: nodes are ordered by depth, then problem, then path, so the roots are nodes 0..P-1;
every other node has one parent with a smaller number; an edge is a child, the end of a solution,
missing from the record, or forbidden by the mode; ``outcome`` and the ledgers are NaN exactly
where they are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from routerlib.features import (
    FIELDS,
    DecisionProtocol,
    Observations,
    check_protocol,
    is_visible,
)
from routerlib.records import StepKind

TERMINAL = -1
MISSING = -2
FORBIDDEN = -3

LatticePlan = Literal["lattice", "switch"]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Lattice:
    """P problems, K models, decisions at depths 0..D, N nodes.

    - ``problem_ids`` (P) and ``model_ids`` (K), models cheapest first;
    - ``depth``: D; the model chosen at depth D writes the rest of the solution;
    - ``plan``: ``lattice`` (every model writes steps) or ``switch`` (models above the first
      complete the solution at once);
    - ``node_problem``, ``node_depth`` (N,); ``level_offsets`` (D+2,): depth d is the nodes
      ``level_offsets[d]:level_offsets[d + 1]``; ``node_state`` (N) state ids;
    - ``parent``, ``parent_action`` (N,): the edge into each node, -1 at roots;
    - ``next_node`` (N, K): child node, or ``TERMINAL``, ``MISSING``, ``FORBIDDEN``;
    - ``outcome`` (N, K): 1 right or 0 wrong on terminal edges, NaN elsewhere;
    - ``ledger``: protocol -> (N, K, K, 3) tokens that taking an action there makes each model
      read and write (``costs.LEDGER_FIELDS``), NaN where a call it needs is not recorded;
    - ``fields``: name -> (N,) of every observable field, hidden ones included: policies get
      ``observe(protocol)`` only;
    - ``text_tokens`` (N, K): tokens of the step behind each action that are not thought, NaN where
      it is not recorded; None where nobody counted them.
    """

    problem_ids: tuple[str, ...]
    model_ids: tuple[str, ...]
    depth: int
    plan: LatticePlan
    node_problem: IntArray
    node_depth: IntArray
    level_offsets: IntArray
    node_state: npt.NDArray[np.str_]
    parent: IntArray
    parent_action: IntArray
    next_node: IntArray
    outcome: FloatArray
    ledger: Mapping[str, FloatArray]
    fields: Mapping[str, FloatArray]
    text_tokens: FloatArray | None = None

    @property
    def n_problems(self) -> int:
        """P."""
        return len(self.problem_ids)

    @property
    def n_models(self) -> int:
        """K."""
        return len(self.model_ids)

    @property
    def n_nodes(self) -> int:
        """N."""
        return len(self.node_problem)

    @property
    def allowed(self) -> BoolArray:
        """(N, K): actions that the mode allows; all of them unless it is one-way."""
        allowed: BoolArray = self.next_node != FORBIDDEN
        return allowed

    def level(self, depth: int) -> slice:
        """Return the slice of nodes at a depth."""
        return slice(int(self.level_offsets[depth]), int(self.level_offsets[depth + 1]))

    def step_kind(self, depth: int, action: int) -> StepKind:
        """Return what the model of ``action`` writes at a depth: one step or the rest."""
        return get_step_kind(self.plan, self.depth, depth, action)

    def observe(self, protocol: DecisionProtocol) -> Observations:
        """Return what a policy sees at every node: (N, F) of the fields that the protocol shows,
        in the registry's order. Raises ``ValueError`` for an unknown protocol."""
        protocol = check_protocol(protocol)
        names = tuple(
            name for name in FIELDS if name in self.fields and is_visible(FIELDS[name], protocol)
        )
        return Observations(names, np.stack([self.fields[n] for n in names], axis=1), protocol)

    def select(
        self, problem_indices: Sequence[int] | npt.NDArray[np.integer] | BoolArray
    ) -> Lattice:
        """Return the lattice of some problems, in the given order (indices or a mask over P).

        Raises ``ValueError`` for an index that is out of range or given twice.
        """
        chosen = np.asarray(problem_indices)
        if chosen.dtype == np.bool_:
            if chosen.shape != (self.n_problems,):
                raise ValueError(f"mask has shape {chosen.shape} for {self.n_problems} problems")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if np.any(chosen < 0) or np.any(chosen >= self.n_problems):
            raise ValueError(f"problem indices must be in 0..{self.n_problems - 1}, got {chosen}")
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError("a problem was selected twice: resample values, not lattices")
        rank = np.full(self.n_problems, -1, dtype=np.int32)
        rank[chosen] = np.arange(len(chosen), dtype=np.int32)
        kept = np.flatnonzero(rank[self.node_problem] >= 0)
        order = kept[np.lexsort((kept, rank[self.node_problem[kept]], self.node_depth[kept]))]
        part = self.take_nodes(order)
        return replace(
            part,
            problem_ids=tuple(self.problem_ids[i] for i in chosen),
            node_problem=rank[part.node_problem],
        )

    def take_nodes(self, order: npt.NDArray[np.integer]) -> Lattice:
        """Return the lattice of the given nodes only, renumbered in that order, which must be by
        depth. An edge to a node that is left out becomes ``FORBIDDEN``."""
        number = np.full(self.n_nodes + 1, FORBIDDEN, dtype=np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        old_next = self.next_node[order]
        old_parent = self.parent[order]
        counts = np.bincount(self.node_depth[order], minlength=self.depth + 1)
        return replace(
            self,
            node_problem=self.node_problem[order],
            node_depth=self.node_depth[order],
            level_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            node_state=self.node_state[order],
            parent=np.where(old_parent >= 0, number[old_parent], -1).astype(np.int32),
            parent_action=self.parent_action[order],
            next_node=np.where(old_next >= 0, number[old_next], old_next).astype(np.int32),
            outcome=self.outcome[order],
            ledger={name: value[order] for name, value in self.ledger.items()},
            fields={name: value[order] for name, value in self.fields.items()},
            text_tokens=None if self.text_tokens is None else self.text_tokens[order],
        )


def get_step_kind(plan: LatticePlan, last_depth: int, depth: int, action: int) -> StepKind:
    """Return the kind of the recorded step behind an action at a depth of a plan."""
    if depth == last_depth or (plan == "switch" and action > 0):
        return "tail"
    return "step"
