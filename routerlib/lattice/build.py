"""From recorded rows to a lattice: index the rows, unroll the trees level by level, add costs
and fields.

Recording merged equal texts; this unrolls them again, so a node is a path and everything that
depends on the path (who wrote what, what each model has read) is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from routerlib.errors import StoreError
from routerlib.lattice.arrays import (
    MISSING,
    TERMINAL,
    IntArray,
    Lattice,
    LatticePlan,
    get_step_kind,
)
from routerlib.lattice.fields import Paths, compute_fields, take_rows
from routerlib.lattice.ledger import compute_ledgers
from routerlib.lattice.rows import KINDS, RecordedGraph, TraceTables, index_graph
from routerlib.records import ModelCard


def build_lattice(
    tables: TraceTables,
    *,
    benchmark: str,
    split: str,
    model_ids: Sequence[str],
    depth: int,
    prompt_version: str | None = None,
    temperature: float = 0.0,
    sample_index: int = 0,
    plan: LatticePlan = "lattice",
    limit: int | None = None,
) -> Lattice:
    """Return the lattice of a benchmark's split for some models, cheapest first.

    ``depth`` is D: decisions are taken at depths 0..D and the last one picks who writes the rest.
    Only successful steps at ``temperature`` with ``sample_index`` are used. ``limit`` keeps the
    first recorded problems in the split's order. Steps that are not recorded become ``MISSING``
    edges.

    Raises ``StoreError`` for contradictory rows or an empty selection, ``ValueError`` for a
    negative depth or models named twice.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth}: it counts decisions before the last, so 0 or more")
    if not model_ids or len(set(model_ids)) < len(model_ids):
        raise ValueError(f"model_ids must be different models, cheapest first, got {model_ids}")
    graph = index_graph(
        tables,
        benchmark=benchmark,
        split=split,
        model_ids=model_ids,
        prompt_version=prompt_version,
        temperature=temperature,
        sample_index=sample_index,
        limit=limit,
    )
    tree = _unroll(graph, depth, len(model_ids), plan)
    paths = tree.paths
    return Lattice(
        problem_ids=graph.problem_ids,
        model_ids=tuple(model_ids),
        depth=depth,
        plan=plan,
        node_problem=paths.node_problem,
        node_depth=np.repeat(np.arange(depth + 1, dtype=np.int32), np.diff(paths.level_offsets)),
        level_offsets=paths.level_offsets,
        node_state=graph.state_ids[tree.node_state],
        parent=paths.parent,
        parent_action=paths.parent_action,
        next_node=tree.next_node,
        outcome=take_rows(graph.step_outcome, paths.edge_step),
        ledger=compute_ledgers(graph, paths),
        fields=compute_fields(graph, paths),
        text_tokens=take_rows(graph.text_tokens, paths.edge_step),
    )


def load_lattice(
    root: Path,
    *,
    benchmark: str,
    split: str,
    model_ids: Sequence[str],
    depth: int,
    prompt_version: str | None = None,
    temperature: float = 0.0,
    plan: LatticePlan = "lattice",
    limit: int | None = None,
) -> Lattice:
    """Return the lattice of the recorded traces under ``root``: ``build_lattice`` of its tables.

    Raises what the store raises for unreadable traces, and what ``build_lattice`` raises.
    """
    return build_lattice(
        load_tables(root),
        benchmark=benchmark,
        split=split,
        model_ids=model_ids,
        depth=depth,
        prompt_version=prompt_version,
        temperature=temperature,
        plan=plan,
        limit=limit,
    )


def load_tables(root: Path) -> TraceTables:
    """Return the tables that lattices are built from as polars frames, to build several from one
    reading."""
    names = ("problems", "states", "steps", "prompt_scores", "judgements")
    return TraceTables(**{name: load_frame(root, name) for name in names})


def load_frame(root: Path, name: str) -> pl.DataFrame:
    """Return one table of the store under ``root`` as a polars frame.

    Raises what the store raises for unreadable traces.
    """
    from routerlib.store import load_table  # duckdb is heavy

    frame = pl.from_arrow(load_table(root, name))
    if not isinstance(frame, pl.DataFrame):
        raise StoreError(f"table {name!r} of {root} is not a table but {type(frame).__name__}")
    return frame


def load_model_cards(root: Path, model_ids: Sequence[str]) -> tuple[ModelCard, ...]:
    """Return the stored cards of some models, in that order, for ``costs.make_lens``.

    Raises ``StoreError`` for a model that the store does not know.
    """
    from routerlib.store import load_table

    rows = {row["id"]: row for row in load_table(root, "models").to_pylist()}
    unknown = [model_id for model_id in model_ids if model_id not in rows]
    if unknown:
        raise StoreError(f"no card of {unknown} in {root}: it has {sorted(rows)}")
    names = ModelCard.__dataclass_fields__
    return tuple(
        ModelCard(**{name: rows[model_id][name] for name in names}) for model_id in model_ids
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Tree:
    """Unrolled trees: ``paths``, ``node_state`` (N,) state index, ``next_node`` (N, K)."""

    paths: Paths
    node_state: IntArray
    next_node: IntArray


@dataclass(frozen=True, eq=False, slots=True)
class _Level:
    """The nodes of one depth, n of them: the columns of ``_Tree`` and ``Paths``."""

    state: IntArray
    problem: IntArray
    parent: IntArray
    action: IntArray
    edge_step: IntArray
    next_node: IntArray


def _unroll(graph: RecordedGraph, depth: int, n_models: int, plan: LatticePlan) -> _Tree:
    """Return the unrolled trees of all problems at once, one level after the other."""
    n_problems = len(graph.problem_ids)
    state, problem = graph.root_state, np.arange(n_problems, dtype=np.int32)
    parent = action = np.full(n_problems, -1, dtype=np.int32)
    levels: list[_Level] = []
    start = 0
    for level_depth in range(depth + 1):
        kinds = [
            KINDS.index(get_step_kind(plan, depth, level_depth, model)) for model in range(n_models)
        ]
        models = np.arange(n_models)
        edge_step = graph.step_of[kinds, :, models].T[state]
        outcome = take_rows(graph.step_outcome, edge_step)
        goes_on = (edge_step >= 0) & np.isnan(outcome)
        next_node = np.where(edge_step >= 0, TERMINAL, MISSING).astype(np.int32)
        stop = start + len(state)
        next_node[goes_on] = stop + np.arange(goes_on.sum(), dtype=np.int32)
        levels.append(_Level(state, problem, parent, action, edge_step, next_node))
        row, chosen = np.nonzero(goes_on)
        parent, action = (start + row).astype(np.int32), chosen.astype(np.int32)
        state, problem = graph.step_next[edge_step[goes_on]], problem[row]
        start = stop
    sizes = [len(level.state) for level in levels]
    paths = Paths(
        level_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        node_problem=np.concatenate([level.problem for level in levels]),
        parent=np.concatenate([level.parent for level in levels]),
        parent_action=np.concatenate([level.action for level in levels]),
        edge_step=np.concatenate([level.edge_step for level in levels]),
    )
    return _Tree(
        paths,
        np.concatenate([level.state for level in levels]),
        np.concatenate([level.next_node for level in levels]),
    )
