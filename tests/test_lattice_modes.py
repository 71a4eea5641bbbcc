"""Escalating once: by hand, against a walker that cannot go back, and on switch recordings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import (
    Walker,
    World,
    build,
    build_hand_lattice,
    build_scripted,
    draw_policy,
    index_nodes,
    record,
)

from routerlib.costs import Lens
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice import (
    FORBIDDEN,
    TERMINAL,
    coverage,
    evaluate_probabilities,
    follow_thresholds,
    mask_probabilities,
    oracle,
    restrict_depth,
    restrict_one_way,
)

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
SEEDS = st.integers(0, 10_000)


def test_one_way_by_hand() -> None:
    lattice = restrict_one_way(build_hand_lattice())
    nodes = index_nodes(lattice)
    # BC is gone: only small, forbidden after large, led there
    assert set(nodes) == {("p", ()), ("q", ()), ("p", (0,)), ("p", (1,)), ("p", (0, 1))}
    assert lattice.next_node[nodes["p", (1,)]].tolist() == [FORBIDDEN, TERMINAL]
    assert lattice.allowed.sum() == 2 * 5 - 2
    p = lattice.problem_ids.index("p")
    # nothing is decided after the escalation, so nothing is drafted there: 31 + 12
    chosen = np.eye(2)[np.full(5, 1)]
    bills = {"before": 24 + 12, "probe": 30 + 12, "draft": 31 + 12, "judge": 31 + 30 + 12}
    for protocol, cost in bills.items():
        values = evaluate_probabilities(lattice, chosen, LENS, protocol)
        assert values.cost[p] == cost
    # small after large means staying with large
    chosen[nodes["p", (1,)]] = [1.0, 0.0]
    assert evaluate_probabilities(lattice, chosen, LENS, "draft").cost[p] == 31 + 12
    assert oracle(lattice, LENS, "draft").cost[p] == 31 + 12
    assert coverage(lattice).n_edges == 8
    assert coverage(lattice).complete.all()


@given(seed=SEEDS, n_models=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_no_path_ever_comes_back(seed: int, n_models: int) -> None:
    lattice = restrict_one_way(build_scripted(seed, 2, 3, n_models=n_models))
    for _, path in index_nodes(lattice):
        assert list(path) == sorted(path)
    masked = mask_probabilities(lattice, draw_policy(lattice, seed))
    np.testing.assert_allclose(masked.sum(axis=1), 1.0)
    assert np.all(masked[~lattice.allowed] == 0.0)
    again = restrict_one_way(lattice)
    np.testing.assert_array_equal(again.next_node, lattice.next_node)
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(again.ledger[protocol], lattice.ledger[protocol])


@given(seed=SEEDS, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=25, deadline=None)
def test_one_way_walk_is_the_forward_pass(seed: int, protocol: DecisionProtocol) -> None:
    lattice = restrict_one_way(build_scripted(seed, 4))
    scores = np.random.default_rng(seed).random(lattice.n_nodes)
    thresholds = np.array([-np.inf, 0.2, 0.5, 0.8, np.inf])
    values = follow_thresholds(lattice, scores, thresholds, LENS, protocol)
    for t, threshold in enumerate(thresholds):
        large = (scores >= threshold).astype(float)
        expected = evaluate_probabilities(
            lattice, np.stack([1 - large, large], axis=1), LENS, protocol
        )
        np.testing.assert_allclose(values.cost[t], expected.cost)
        np.testing.assert_allclose(values.accuracy[t], expected.accuracy)
        np.testing.assert_allclose(values.share_large[t], expected.share_large)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_one_way_under_before_is_the_walker_that_never_comes_back(seed: int) -> None:
    world = World(seed)
    tables = record(world, ["a", "b"], 3, merge=True)
    full = build(tables, world.model_ids, 3)
    lattice = restrict_one_way(full)
    nodes, walker = index_nodes(full), Walker(tables, world.model_ids, 3)
    scores = np.random.default_rng(seed).random(full.n_nodes)
    kept = [nodes[key] for key in index_nodes(lattice)]
    values = follow_thresholds(lattice, scores[kept], np.array([0.6]), LENS, "before")
    for i, problem in enumerate(full.problem_ids):
        right, cost, _ = walker.walk(
            problem,
            lambda path, problem=problem: int(1 in path or scores[nodes[problem, path]] >= 0.6),
            LENS.weights.tolist(),
            "before",
        )
        assert values.accuracy[0, i] == right
        assert values.cost[0, i] == pytest.approx(cost)


def test_switch_recording_is_one_way_by_itself() -> None:
    world = World(2, end_share=0.1)
    lattice = build(
        record(world, ["a", "b"], 4, merge=True, plan="switch"), world.model_ids, 4, plan="switch"
    )
    np.testing.assert_array_equal(restrict_one_way(lattice).next_node, lattice.next_node)


def test_depth_zero_chooses_one_model_for_the_problem() -> None:
    whole = build_hand_lattice()
    lattice = restrict_depth(whole, 0)
    stays = {(p, path) for p, path in index_nodes(whole) if len(set(path)) <= 1}
    assert set(index_nodes(lattice)) == stays
    assert ("p", (0, 1)) in index_nodes(whole)
    for action in (0, 1):
        alone, free = (
            evaluate_probabilities(part, np.eye(2)[np.full(part.n_nodes, action)], LENS, "before")
            for part in (lattice, whole)
        )
        assert alone.accuracy.tolist() == free.accuracy.tolist()
        assert alone.cost.tolist() == free.cost.tolist()
    with pytest.raises(ValueError, match="depth is 3; this lattice was recorded to depth 2"):
        restrict_depth(whole, 3)


@given(seed=SEEDS, depth=st.integers(0, 3), n_models=st.integers(2, 3))
@settings(max_examples=25, deadline=None)
def test_a_shallower_mode_is_a_policy_that_stays_with_its_last_choice(
    seed: int, depth: int, n_models: int
) -> None:
    lattice = build_scripted(seed, n_models=n_models)
    mode = restrict_depth(lattice, depth)
    number = index_nodes(lattice)
    kept = [number[key] for key in index_nodes(mode)]
    probabilities = draw_policy(lattice, seed)
    late = lattice.node_depth > depth
    probabilities[late] = np.eye(n_models)[lattice.parent_action[late]]
    lens = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0], [9.0, 0.0, 9.0]]))
    lens = replace(lens, weights=lens.weights[:n_models])
    free = evaluate_probabilities(lattice, probabilities, lens, "before")
    masked = evaluate_probabilities(mode, probabilities[kept], lens, "before")
    np.testing.assert_allclose(masked.accuracy, free.accuracy)
    np.testing.assert_allclose(masked.cost, free.cost)
    # what is forced is not drafted either: only decisions up to the depth cost more than before
    decided = mode.node_depth <= depth
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(
            mode.ledger[protocol][~decided], mode.ledger["before"][~decided]
        )
    again = restrict_depth(mode, depth)
    np.testing.assert_array_equal(again.next_node, mode.next_node)
