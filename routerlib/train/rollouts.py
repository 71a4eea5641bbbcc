"""Rollouts: whole solutions with the probability of every choice, drawn from a lattice or recorded.

A rollout is a row of decisions; what was seen at each is a row of ``observations``. Invariants:
``behaviour`` is the probability with which the action that was taken was taken, in (0, 1]; a
rollout ends once, with its outcome as the reward of its last decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from routerlib.costs import Lens
from routerlib.errors import StoreError
from routerlib.features import DecisionProtocol, Observations
from routerlib.lattice import (
    MISSING,
    Lattice,
    TraceTables,
    build_lattice,
    compute_edge_costs,
    load_frame,
    load_tables,
    mask_probabilities,
)
from routerlib.lattice.replay import make_off_record_error

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rollouts:
    """R rollouts of at most T decisions among K models.

    ``observations`` (M, F) and ``allowed`` (M, K) of every state that was, or could have been, met;
    ``row`` (R, T): the one at each decision, -1 beyond the end; ``action``, ``behaviour``,
    ``reward`` and ``cost`` (R, T), beyond the end 0, 1, 0 and 0. Cost is in the lens's unit.
    """

    observations: Observations
    allowed: NDArray[np.bool_]
    row: Indices
    action: Indices
    behaviour: Floats
    reward: Floats
    cost: Floats

    @property
    def taken(self) -> NDArray[np.bool_]:
        """(R, T): whether a decision was taken."""
        return np.asarray(self.row >= 0)


def sample_rollouts(
    lattice: Lattice,
    probabilities: Floats,
    lens: Lens,
    protocol: DecisionProtocol,
    *,
    generator: np.random.Generator,
    n_per_problem: int = 1,
) -> Rollouts:
    """Walk ``n_per_problem`` times down the tree of each problem, choosing by probabilities (N, K).

    What the mode forbids falls to the cheapest allowed action, as in replay. Raises OffRecordError
    where a walk needs a call that is not recorded.
    """
    decisions = mask_probabilities(lattice, probabilities)
    edge_cost = compute_edge_costs(lattice, lens, protocol)
    shape = (n_per_problem * lattice.n_problems, lattice.depth + 1)
    rollouts = _make_empty(lattice.observe(protocol), lattice.allowed, shape)
    walk = np.arange(shape[0])
    node = np.tile(np.arange(lattice.n_problems), n_per_problem)
    for t in range(shape[1]):
        bounds = np.cumsum(decisions[node], axis=1)
        drawn = generator.random(len(node))[:, None] * bounds[:, -1:]
        action = (drawn >= bounds).sum(axis=1)
        _check_recorded(lattice, edge_cost, node, action)
        rollouts.row[walk, t], rollouts.action[walk, t] = node, action
        rollouts.behaviour[walk, t] = decisions[node, action]
        rollouts.reward[walk, t] = np.nan_to_num(lattice.outcome[node, action])
        rollouts.cost[walk, t] = edge_cost[node, action]
        child = lattice.next_node[node, action]
        walk, node = walk[child >= 0], child[child >= 0].astype(np.int64)
    return rollouts


def load_rollouts(
    root: Path,
    *,
    benchmark: str,
    split: str,
    model_ids: Sequence[str],
    depth: int,
    temperature: float,
    lens: Lens,
) -> Rollouts:
    """Return the recorded rollouts of the store under ``root``: ``build_rollouts`` of its tables.

    Raises what the store raises for unreadable traces, and what ``build_rollouts`` raises.
    """
    choices = load_frame(root, "choices")
    return build_rollouts(
        load_tables(root),
        choices,
        benchmark=benchmark,
        split=split,
        model_ids=model_ids,
        depth=depth,
        temperature=temperature,
        lens=lens,
    )


def build_rollouts(
    tables: TraceTables,
    choices: pl.DataFrame,
    *,
    benchmark: str,
    split: str,
    model_ids: Sequence[str],
    depth: int,
    temperature: float,
    lens: Lens,
) -> Rollouts:
    """Return the rollouts of a benchmark's split, as protocol ``before`` sees and bills them.

    ``choices`` has ``step_id`` and ``probability``; ``depth`` is that of the recording, where the
    last decision picks who writes the rest. Other protocols are out: what the small model would
    have said is recorded only where it was chosen, so a missing probe would give the choice away.
    Rollouts that were not finished are left out. Raises ``StoreError`` when none is finished, or
    when a rollout has two choices in one state, or of one step.
    """
    chosen = tables.steps.filter(
        pl.col("error").is_null() & (pl.col("temperature") == temperature)
    ).join(choices, left_on="id", right_on="step_id")
    found = []
    for sample_index in chosen["sample_index"].unique().sort().to_list():
        lattice = build_lattice(
            tables,
            benchmark=benchmark,
            split=split,
            model_ids=model_ids,
            depth=depth,
            temperature=temperature,
            sample_index=sample_index,
        )
        sample = chosen.filter(
            (pl.col("sample_index") == sample_index)
            & pl.col("problem_id").is_in(lattice.problem_ids)
            & pl.col("model_id").is_in(list(model_ids))
        )
        twice = sample.filter(pl.col("id").is_duplicated())
        if len(twice):
            raise StoreError(
                f"step {twice['id'][0]!r} was chosen by two behaviour policies: record each in a "
                "store of its own"
            )
        columns = sample.select("state_id", "model_id", "probability").iter_rows()
        probability = {(state, model): float(value) for state, model, value in columns}
        found.append(_follow_record(lattice, lens, probability))
    return _concatenate(found)


def _follow_record(
    lattice: Lattice, lens: Lens, probability: dict[tuple[str, str], float]
) -> Rollouts:
    """The one recorded path of each problem of a lattice that has no more than one."""
    recorded = lattice.next_node != MISSING
    twice = np.flatnonzero(recorded.sum(axis=1) > 1)
    if len(twice):
        raise StoreError(
            f"state {str(lattice.node_state[twice[0]])!r} was left by two choices of one rollout: "
            "record each behaviour policy in a store of its own"
        )
    edge_cost = compute_edge_costs(lattice, lens, "before")
    shape = (lattice.n_problems, lattice.depth + 1)
    rollouts = _make_empty(lattice.observe("before"), np.ones_like(recorded), shape)
    finished = np.zeros(lattice.n_problems, dtype=np.bool_)
    walk, node = np.arange(lattice.n_problems), np.arange(lattice.n_problems)
    for t in range(shape[1]):
        goes_on = recorded[node].any(axis=1)
        walk, node = walk[goes_on], node[goes_on]
        action = recorded[node].argmax(axis=1)
        rollouts.row[walk, t], rollouts.action[walk, t] = node, action
        rollouts.behaviour[walk, t] = [
            probability[str(lattice.node_state[n]), lattice.model_ids[a]]
            for n, a in zip(node, action, strict=True)
        ]
        outcome, child = lattice.outcome[node, action], lattice.next_node[node, action]
        rollouts.reward[walk, t] = np.nan_to_num(outcome)
        rollouts.cost[walk, t] = edge_cost[node, action]
        finished[walk[np.isfinite(outcome)]] = True
        walk, node = walk[child >= 0], child[child >= 0].astype(np.int64)
    return _take(rollouts, finished)


def _make_empty(
    observations: Observations, allowed: NDArray[np.bool_], shape: tuple[int, int]
) -> Rollouts:
    return Rollouts(
        observations,
        allowed,
        row=np.full(shape, -1, dtype=np.int64),
        action=np.zeros(shape, dtype=np.int64),
        behaviour=np.ones(shape),
        reward=np.zeros(shape),
        cost=np.zeros(shape),
    )


_STEPS = ("row", "action", "behaviour", "reward", "cost")


def _take(rollouts: Rollouts, kept: NDArray[np.bool_]) -> Rollouts:
    return replace(rollouts, **{name: getattr(rollouts, name)[kept] for name in _STEPS})


def _concatenate(parts: list[Rollouts]) -> Rollouts:
    """Join rollouts of as many models, decisions and fields. StoreError when none is left."""
    if sum(len(part.row) for part in parts) == 0:
        raise StoreError("no recorded rollout was finished: go on with the recording")
    starts = np.cumsum([0, *(len(part.observations) for part in parts[:-1])])
    rows = [np.where(p.row >= 0, p.row + start, -1) for p, start in zip(parts, starts, strict=True)]
    first = parts[0].observations
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _STEPS[1:]}
    return Rollouts(
        replace(first, values=np.concatenate([part.observations.values for part in parts])),
        np.concatenate([part.allowed for part in parts]),
        row=np.concatenate(rows),
        **joined,
    )


def _check_recorded(lattice: Lattice, edge_cost: Floats, node: Indices, action: Indices) -> None:
    lost = np.isnan(edge_cost[node, action])
    if lost.any():
        first = int(np.argmax(lost))
        raise make_off_record_error(lattice, int(node[first]), int(action[first]))
