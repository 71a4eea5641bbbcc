"""Exact replay of policies on a lattice: no sampling, no model.

A policy given as probabilities is one forward pass over the levels; a threshold rule is a pointer
for each (threshold, problem) that walks down, all at once. Both give the same numbers. Invariant:
a policy that can reach a step which was not recorded is an ``OffRecordError``, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routerlib.costs import Lens, compute_cost
from routerlib.errors import OffRecordError
from routerlib.features import DecisionProtocol, check_protocol
from routerlib.lattice.arrays import MISSING, FloatArray, Lattice

MAX_PROBABILITY_ERROR = 1e-6


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """What a policy achieves on each problem; (...) is () for one policy, (T,) for T thresholds.

    ``accuracy`` (..., P): probability of a right answer; ``cost`` (..., P): expected cost in the
    lens's unit; ``usage`` (..., P, D+1, K): expected number of decisions at each depth that
    chose each model (None where it was not kept).
    """

    accuracy: FloatArray
    cost: FloatArray
    usage: npt.NDArray[np.float32] | None = None

    def at(self, index: int) -> Values:
        """Return the values (P,) of one of T thresholds."""
        usage = None if self.usage is None else self.usage[index]
        return Values(self.accuracy[index], self.cost[index], usage)

    @property
    def share_large(self) -> FloatArray:
        """(..., D+1): share of the decisions taken at each depth that chose the last model, over
        all problems; NaN at depths that are never reached. ``ValueError`` without ``usage``."""
        if self.usage is None:
            raise ValueError("these values were made without usage: evaluate the policy again")
        totals = self.usage.sum(axis=-3, dtype=np.float64)
        reached = totals.sum(axis=-1)
        share: FloatArray = np.full(reached.shape, np.nan)
        np.divide(totals[..., -1], reached, out=share, where=reached > 0)
        return share


def evaluate_probabilities(
    lattice: Lattice,
    probabilities: npt.NDArray[np.floating],
    lens: Lens,
    protocol: DecisionProtocol,
) -> Values:
    """Return the exact expected values (P,) of a policy given as probabilities (N, K) per node.

    Where the mode forbids an action, its probability goes to the cheapest allowed one. Raises
    ``ValueError`` for rows that are no distributions and ``OffRecordError`` when the policy reaches
    a missing step with positive probability.
    """
    chosen = mask_probabilities(lattice, _check_probabilities(lattice, probabilities))
    edge_cost = compute_edge_costs(lattice, lens, protocol)
    reach = np.ones(lattice.n_nodes)
    for depth in range(1, lattice.depth + 1):
        nodes = lattice.level(depth)
        parent = lattice.parent[nodes]
        reach[nodes] = reach[parent] * chosen[parent, lattice.parent_action[nodes]]
    flow = reach[:, None] * chosen
    off = (flow > 0) & np.isnan(edge_cost)
    if off.any():
        node, action = np.argwhere(off)[0]
        raise make_off_record_error(lattice, int(node), int(action))
    right = np.where(flow > 0, np.nan_to_num(lattice.outcome), 0.0)
    usage = np.zeros((lattice.n_problems, lattice.depth + 1, lattice.n_models))
    np.add.at(usage, (lattice.node_problem, lattice.node_depth), flow)
    return Values(
        accuracy=_sum_by_problem(lattice, (flow * right).sum(axis=1)),
        cost=_sum_by_problem(lattice, (flow * np.where(flow > 0, edge_cost, 0.0)).sum(axis=1)),
        usage=usage.astype(np.float32),
    )


def follow_thresholds(
    lattice: Lattice,
    scores: npt.NDArray[np.floating],
    thresholds: npt.NDArray[np.floating],
    lens: Lens,
    protocol: DecisionProtocol,
) -> Values:
    """Return the values (T, P) of "large where score >= threshold" for T thresholds.

    ``scores`` (N,) is a policy's probability of large, or any number; threshold ``-inf`` is always
    large and ``inf`` always small. Raises ``ValueError`` unless there are exactly two models, or
    when a reached score is NaN, and ``OffRecordError`` when a rule reaches a missing step.
    """
    if lattice.n_models != 2:
        raise ValueError(
            f"a threshold chooses between two models, this lattice has {lattice.n_models}: use "
            "evaluate_probabilities"
        )
    scores, thresholds = np.asarray(scores), np.asarray(thresholds).reshape(-1)
    if scores.shape != (lattice.n_nodes,) or np.isnan(thresholds).any():
        raise ValueError(
            f"scores have shape {scores.shape}, expected ({lattice.n_nodes},); thresholds must "
            "not be NaN"
        )
    edge_cost = compute_edge_costs(lattice, lens, protocol).reshape(-1)
    edge_right = np.nan_to_num(lattice.outcome).reshape(-1)
    edge_next = lattice.next_node.reshape(-1)
    allowed = lattice.allowed
    n_walks = len(thresholds) * lattice.n_problems
    accuracy, cost = np.zeros(n_walks), np.zeros(n_walks)
    usage = np.zeros((lattice.depth + 1, n_walks, 2), dtype=np.float32)
    walk = np.arange(n_walks)
    node = np.tile(np.arange(lattice.n_problems), len(thresholds))
    cut = np.repeat(thresholds, lattice.n_problems)
    for depth in range(lattice.depth + 1):
        score = scores[node]
        large = score >= cut
        if not allowed.all():
            large = np.where(allowed[node, large.astype(np.intp)], large, ~large)
        edge = 2 * node + large
        _check_walk(lattice, node, edge, edge_cost, score)
        cost[walk] += edge_cost[edge]
        accuracy[walk] = edge_right[edge]
        usage[depth, walk, large.astype(np.intp)] = 1.0
        child = edge_next[edge]
        going = child >= 0
        walk, node, cut = walk[going], child[going].astype(np.intp), cut[going]
    shape = (len(thresholds), lattice.n_problems)
    return Values(
        accuracy.reshape(shape),
        cost.reshape(shape),
        np.moveaxis(usage, 0, 1).reshape(*shape, lattice.depth + 1, 2),
    )


def mask_probabilities(lattice: Lattice, probabilities: FloatArray) -> FloatArray:
    """Return probabilities (N, K) with what forbidden actions had moved to the cheapest allowed
    one: after the one escalation, that is staying with the model."""
    allowed = lattice.allowed
    if allowed.all():
        return probabilities
    masked = np.where(allowed, probabilities, 0.0)
    stay = allowed.argmax(axis=1)
    masked[np.arange(len(masked)), stay] += probabilities.sum(axis=1) - masked.sum(axis=1)
    return masked


def compute_edge_costs(lattice: Lattice, lens: Lens, protocol: DecisionProtocol) -> FloatArray:
    """Return (N, K): cost of each action at each node, NaN where it is missing or forbidden."""
    costs = compute_cost(lattice.ledger[check_protocol(protocol)], lens)
    return np.where(lattice.next_node >= MISSING + 1, costs, np.nan)


def check_complete(lattice: Lattice, edge_cost: FloatArray) -> None:
    """Raise ``OffRecordError`` when an allowed action has no cost (N, K): a call is missing."""
    off = np.isnan(edge_cost) & lattice.allowed
    if off.any():
        node, action = np.argwhere(off)[0]
        raise make_off_record_error(lattice, int(node), int(action))


def make_off_record_error(lattice: Lattice, node: int, action: int) -> OffRecordError:
    """Return the error that names the first call which an action at a node needs and lacks: its
    own step, the small model's, the large model's (whose prompt the judge's bill is read from), or
    the judge's."""
    depth = int(lattice.node_depth[node])
    where = (
        f"problem {lattice.problem_ids[lattice.node_problem[node]]!r}, state "
        f"{str(lattice.node_state[node])!r} at depth {depth}"
    )
    for model in (action, 0, lattice.n_models - 1):
        if lattice.next_node[node, model] == MISSING:
            n_missing = int((lattice.next_node == MISSING).sum())
            return OffRecordError(
                f"{where}: the {lattice.step_kind(depth, model)} of model "
                f"{lattice.model_ids[model]!r} was never recorded ({n_missing} edges are missing "
                "in all). Collect what missing_expansions lists, or keep complete problems: "
                "lattice.select(coverage(lattice).complete)"
            )
    return OffRecordError(
        f"{where}: the draft of model {lattice.model_ids[0]!r} was never judged by "
        f"{lattice.model_ids[-1]!r}. Record it with `routerlib judge`, or keep judged problems: "
        "lattice.select(coverage(lattice, 'judge').complete)"
    )


def _check_probabilities(lattice: Lattice, probabilities: npt.NDArray[np.floating]) -> FloatArray:
    expected = (lattice.n_nodes, lattice.n_models)
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != expected:
        raise ValueError(f"probabilities have shape {values.shape}, expected {expected} (N, K)")
    error = np.abs(values.sum(axis=1) - 1.0)
    if not np.all(values >= 0.0) or not np.all(error <= MAX_PROBABILITY_ERROR):
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        raise ValueError(f"row {worst} of probabilities is no distribution: {values[worst]}")
    return values


def _check_walk(
    lattice: Lattice,
    node: npt.NDArray[np.intp],
    edge: npt.NDArray[np.intp],
    edge_cost: FloatArray,
    score: npt.NDArray[np.floating],
) -> None:
    """Raise when a walk is at an edge that is not recorded, or at a score that is no number."""
    off = np.isnan(edge_cost[edge])
    if off.any():
        first = int(edge[np.argmax(off)])
        raise make_off_record_error(lattice, first // 2, first % 2)
    unknown = np.isnan(score)
    if unknown.any():
        first = int(node[np.argmax(unknown)])
        raise ValueError(
            f"the score is NaN at node {first} (problem "
            f"{lattice.problem_ids[lattice.node_problem[first]]!r}, depth "
            f"{lattice.node_depth[first]}): the field it comes from was not recorded there"
        )


def _sum_by_problem(lattice: Lattice, per_node: FloatArray) -> FloatArray:
    totals = np.zeros(lattice.n_problems)
    np.add.at(totals, lattice.node_problem, per_node)
    return totals
