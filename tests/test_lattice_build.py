"""The unrolled tree of the recording made by hand, selections, and contradictory rows."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import (
    World,
    build,
    build_hand_lattice,
    build_scripted,
    get_paths,
    index_nodes,
    make_hand_records,
    make_hand_tables,
    record,
)

from routerlib.benchmarks.problem_features import PROBLEM_FEATURES
from routerlib.benchmarks.splits import compute_rank
from routerlib.errors import StoreError
from routerlib.features import PROTOCOLS
from routerlib.lattice import (
    MISSING,
    TERMINAL,
    Lattice,
    TraceTables,
    load_lattice,
    load_model_cards,
)
from routerlib.records import Judgement, ModelCard, ProblemRow, Run
from routerlib.store import TraceWriter

PAIR = ("small", "large")


def assert_same(left: Lattice, right: Lattice, *, states: bool = True, atol: float = 0.0) -> None:
    """Every array is equal, fields to ``atol``; state ids only with ``states``."""
    assert left.problem_ids == right.problem_ids
    names = (
        "node_problem",
        "node_depth",
        "level_offsets",
        "parent",
        "parent_action",
        "next_node",
        "outcome",
    )
    for name in (*names, *(["node_state"] if states else [])):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    for one, other in ((left.ledger, right.ledger), (left.fields, right.fields)):
        assert list(one) == list(other)
        for name, values in one.items():
            np.testing.assert_allclose(values, other[name], rtol=0, atol=atol, err_msg=name)


def test_tree_by_hand() -> None:
    lattice = build_hand_lattice()
    nodes = index_nodes(lattice)
    assert set(nodes) == {
        ("p", ()),
        ("q", ()),
        ("p", (0,)),
        ("p", (1,)),
        ("p", (0, 1)),
        ("p", (1, 0)),
    }
    states = {
        path: str(lattice.node_state[n]) for (problem, path), n in nodes.items() if problem == "p"
    }
    assert states == {(): "root", (0,): "A", (1,): "B", (0, 1): "AC", (1, 0): "BC"}
    assert lattice.next_node[nodes["p", ()]].tolist() == [nodes["p", (0,)], nodes["p", (1,)]]
    assert lattice.next_node[nodes["p", (0,)]].tolist() == [TERMINAL, nodes["p", (0, 1)]]
    np.testing.assert_array_equal(lattice.outcome[nodes["p", (0,)]], [0, np.nan])
    np.testing.assert_array_equal(lattice.outcome[nodes["p", (1,)]], [np.nan, 1])
    assert lattice.outcome[nodes["p", (0, 1)]].tolist() == [0, 1]
    assert lattice.outcome[nodes["q", ()]].tolist() == [0, 0]
    assert lattice.level_offsets.tolist() == [0, 2, 4, 6]
    assert (lattice.n_problems, lattice.n_nodes, lattice.n_models, lattice.depth) == (2, 6, 2, 2)
    assert lattice.allowed.all()


def test_problems_are_in_the_order_of_their_split() -> None:
    world = World(0)
    lattice = build(record(world, list("abcdef"), 1, merge=True), world.model_ids, 1)
    assert lattice.problem_ids == tuple(sorted("abcdef", key=compute_rank))
    few = build(record(world, list("abcdef"), 1, merge=True), world.model_ids, 1, limit=2)
    assert few.problem_ids == lattice.problem_ids[:2]


@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 3), depth=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_invariants_of_the_arrays(seed: int, n_models: int, depth: int) -> None:
    lattice = build_scripted(seed, 3, depth, n_models=n_models)
    assert lattice.n_nodes <= 3 * sum(n_models**d for d in range(depth + 1))
    for level in range(depth + 1):
        assert np.all(lattice.node_depth[lattice.level(level)] == level)
    keys = [
        (len(path), lattice.node_problem[node], path)
        for node, path in enumerate(get_paths(lattice))
    ]
    assert keys == sorted(keys)
    node, action = np.nonzero(lattice.next_node >= 0)
    child = lattice.next_node[node, action]
    np.testing.assert_array_equal(lattice.parent[child], node)
    np.testing.assert_array_equal(lattice.parent_action[child], action)
    assert len(child) == lattice.n_nodes - lattice.n_problems
    np.testing.assert_array_equal(np.isfinite(lattice.outcome), lattice.next_node == TERMINAL)
    for ledger in lattice.ledger.values():
        assert ledger.shape == (lattice.n_nodes, n_models, n_models, 3)
        assert np.isfinite(ledger).all()


@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_merged_recording_unrolls_to_the_one_that_never_merges(seed: int, n_models: int) -> None:
    world = World(seed, n_models=n_models, n_lines=2)
    problems = ["p0", "p1"]
    merged = record(world, problems, 3, merge=True)
    apart = record(world, problems, 3, merge=False)
    assert len(merged.steps) <= len(apart.steps)
    one, other = (build(tables, world.model_ids, 3) for tables in (merged, apart))
    assert_same(one, other, states=False)


def test_merging_saves_calls() -> None:
    """The property above is not empty: on this world paths do meet."""
    world = World(3, n_lines=2, end_share=0.0)
    merged, apart = (len(record(world, ["p"], 4, merge=m).steps) for m in (True, False))
    assert (merged, apart) == (apart - (apart - merged), 2 + 4 + 8 + 16 + 32)
    assert merged < apart


def test_the_order_of_the_rows_does_not_matter() -> None:
    tables = make_hand_tables()
    assert tables.judgements is not None
    shuffled = TraceTables(
        tables.problems.reverse(),
        tables.states.reverse(),
        tables.steps.sample(fraction=1.0, shuffle=True, seed=1),
        judgements=tables.judgements.reverse(),
    )
    assert_same(build_hand_lattice(), build(shuffled, PAIR, 2))


def test_selection_is_the_lattice_of_those_problems() -> None:
    world = World(5)
    problems = [f"p{i}" for i in range(6)]
    lattice = build(record(world, problems, 3, merge=True), world.model_ids, 3)
    chosen = [i for i in range(6) if i not in (1, 4)]
    names = [lattice.problem_ids[i] for i in chosen]
    alone = build(record(world, names, 3, merge=True), world.model_ids, 3)
    part = lattice.select(chosen)
    assert part.problem_ids == alone.problem_ids
    for name in ("next_node", "outcome", "parent", "node_problem", "level_offsets", "node_state"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(part.ledger[protocol], alone.ledger[protocol])
    mask = np.isin(np.arange(6), chosen)
    assert_same(part, lattice.select(mask))
    assert_same(lattice, lattice.select(np.arange(6)))
    assert lattice.select([4, 1]).problem_ids == (lattice.problem_ids[4], lattice.problem_ids[1])
    assert lattice.select([4, 1]).node_problem[:2].tolist() == [0, 1]


def test_selection_refuses_what_it_cannot_mean() -> None:
    lattice = build_hand_lattice()
    with pytest.raises(ValueError, match="twice"):
        lattice.select([0, 0])
    for wrong in ([2], [-1]):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            lattice.select(wrong)
    with pytest.raises(ValueError, match="mask has shape"):
        lattice.select(np.array([True]))
    assert lattice.select([]).n_nodes == 0


def test_failed_and_foreign_rows_are_not_used() -> None:
    tables = make_hand_tables()
    first = tables.steps.head(1)
    null = pl.lit(None, dtype=pl.String)
    noise = [
        first.with_columns(
            id=pl.lit("failed"), error=pl.lit("timeout"), next_state_id=null, text=null
        ),
        first.with_columns(id=pl.lit("warm"), temperature=pl.lit(0.7)),
        first.with_columns(id=pl.lit("sample"), sample_index=pl.lit(1, dtype=pl.Int64)),
        first.with_columns(id=pl.lit("other"), model_id=pl.lit("huge")),
    ]
    more = replace(tables, steps=pl.concat([*noise, tables.steps]))
    assert_same(build_hand_lattice(), build(more, PAIR, 2))


def test_switch_plan_completes_at_once() -> None:
    world = World(2, end_share=0.0)
    tables = record(world, ["p"], 3, merge=True, plan="switch")
    lattice = build(tables, world.model_ids, 3, plan="switch")
    assert lattice.n_nodes == 4
    assert np.all(lattice.next_node[:, 1] == TERMINAL)
    assert lattice.next_node[:, 0].tolist() == [1, 2, 3, TERMINAL]
    as_lattice = build(tables, world.model_ids, 3)
    assert (as_lattice.next_node == MISSING).any()


def change(tables: TraceTables, step: str, **columns: object) -> TraceTables:
    chosen = pl.col("id") == step
    return replace(
        tables,
        steps=tables.steps.with_columns(
            **{n: pl.when(chosen).then(pl.lit(v)).otherwise(pl.col(n)) for n, v in columns.items()}
        ),
    )


def test_contradictory_rows_are_named_errors() -> None:
    tables = make_hand_tables()
    twice = tables.steps.head(1).with_columns(
        id=pl.lit("again"), max_tokens=pl.lit(50, dtype=pl.Int64)
    )
    cases = [
        (replace(tables, steps=pl.concat([tables.steps, twice])), "more than one recorded step"),
        (change(tables, "A-large", prompt_version="v2"), "name prompt_version"),
        (change(tables, "A-large", next_state_id="nowhere"), "'A-large' leaves or reaches"),
        (change(tables, "AC-large", next_state_id="BC"), "'AC-large' is a tail"),
        (
            replace(
                tables,
                states=tables.states.with_columns(
                    is_correct=pl.when(pl.col("id") != "B.end").then("is_correct")
                ),
            ),
            "not graded",
        ),
        (
            replace(
                tables,
                states=pl.concat(
                    [tables.states, tables.states.head(1).with_columns(text=pl.lit("other"))]
                ),
            ),
            "'root' of problem 'p' is stored twice",
        ),
        (
            replace(tables, problems=tables.problems.with_columns(feature_new=pl.lit(1.0))),
            "'feature_new'",
        ),
    ]
    for broken, message in cases:
        with pytest.raises(StoreError, match=message):
            build(broken, PAIR, 2)


def test_naming_the_prompt_version_chooses() -> None:
    tables = change(make_hand_tables(), "A-large", prompt_version="v2")
    lattice = build(tables, PAIR, 2, prompt_version="v1")
    assert (lattice.next_node == MISSING).sum() == 1


def test_bad_arguments() -> None:
    tables = make_hand_tables()
    with pytest.raises(ValueError, match="depth is -1"):
        build(tables, PAIR, -1)
    with pytest.raises(ValueError, match="different models"):
        build(tables, ("small", "small"), 2)
    with pytest.raises(StoreError, match="no problem of benchmark 'toy', split 'test'"):
        build_hand_lattice_of("test")
    with pytest.raises(ValueError, match="unknown protocol 'guess'"):
        build_hand_lattice().observe("guess")


def build_hand_lattice_of(split: str) -> Lattice:
    from routerlib.lattice import build_lattice

    return build_lattice(make_hand_tables(), benchmark="toy", split=split, model_ids=PAIR, depth=2)


def test_load_reads_what_the_store_wrote(tmp_path: Path) -> None:
    states, steps = make_hand_records()
    cards = [ModelCard(name, "local", "toy", 10, "none", None, "mit", 100) for name in PAIR]
    tables = make_hand_tables()
    problems = tables.problems.to_dicts()
    assert tables.judgements is not None
    with TraceWriter(tmp_path) as writer:
        writer.add_run(Run("run", "2026-01-01T00:00:00", None, "{}", "0", "here", "{}", "lattice"))
        for card in cards:
            writer.add_model(card)
        for row in problems:
            features = {n: row[f"feature_{n}"] for n in PROBLEM_FEATURES}
            writer.add_problem(ProblemRow(row["id"], "toy", "train", "0", None, None, features))
        for state in states:
            writer.add_state(state)
        for step in steps:
            writer.add_step(step)
        for judgement in tables.judgements.to_dicts():
            writer.add_judgement(Judgement(**judgement))
    lattice = load_lattice(tmp_path, benchmark="toy", split="train", model_ids=PAIR, depth=2)
    assert_same(lattice, build_hand_lattice(), atol=1e-4)  # the store rounds log-probabilities
    assert load_model_cards(tmp_path, ("large", "small")) == (cards[1], cards[0])
    with pytest.raises(StoreError, match=r"no card of \['huge'\]"):
        load_model_cards(tmp_path, ("small", "huge"))


@pytest.mark.slow
def test_four_hundred_problems_build_fast() -> None:
    world = World(1, end_share=0.02)
    tables = record(world, [f"p{i}" for i in range(400)], 5, merge=True)
    start = time.process_time()
    lattice = build(tables, world.model_ids, 5)
    spent = time.process_time() - start
    assert lattice.n_nodes > 400 * 50
    assert spent < 4.0, f"{spent:.2f} s of processor time for {lattice.n_nodes} nodes"
