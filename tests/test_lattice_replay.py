"""The forward pass and the pointer walk against a walker that follows one path at a time."""

from __future__ import annotations

import itertools
import time
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
    get_paths,
    index_nodes,
    make_hand_tables,
    record,
)

from routerlib.costs import Lens
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice import (
    Lattice,
    Values,
    compute_edge_costs,
    evaluate_probabilities,
    follow_thresholds,
)

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
# cached tokens have a price too, and models differ in everything
USD = Lens("usd", "USD", np.array([[1.0, 0.1, 2.0], [3.0, 0.5, 8.0], [9.0, 2.0, 30.0]]))
SEEDS = st.integers(0, 10_000)
PROTOCOL = st.sampled_from(PROTOCOLS)


def price(n_models: int) -> Lens:
    return replace(USD, weights=USD.weights[:n_models])


def always(lattice: Lattice, action: int) -> np.ndarray:
    return np.eye(lattice.n_models)[np.full(lattice.n_nodes, action)]


def assert_equal(left: Values, right: Values) -> None:
    np.testing.assert_allclose(left.accuracy, right.accuracy, atol=1e-12)
    np.testing.assert_allclose(left.cost, right.cost, rtol=1e-12)
    assert left.usage is not None
    assert right.usage is not None
    np.testing.assert_allclose(left.usage, right.usage, atol=1e-6)


# Problem p of the hand-made recording: accuracy and cost of whole paths under the three protocols.
PATHS = [
    ((0, 0), 0.0, (7 + 4, 7 + 4, 7 + 4, 11 + 30 + 21)),
    ((0, 1, 0), 0.0, (7 + 30 + 8, 7 + 31 + 8, 7 + 34 + 8, 49 + 30 + 21 + 33)),
    ((0, 1, 1), 1.0, (7 + 30 + 18, 7 + 31 + 22, 7 + 34 + 26, 67 + 30 + 21 + 33)),
    ((1, 0, 0), 1.0, (24 + 10 + 5, 30 + 5 + 5, 31 + 5 + 5, 41 + 30 + 24 + 24)),
    ((1, 0, 1), 1.0, (24 + 10 + 24, 30 + 5 + 25, 31 + 5 + 29, 65 + 30 + 24 + 24)),
    ((1, 1), 1.0, (24 + 12, 30 + 16, 31 + 17, 48 + 30 + 24)),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("path", "right", "costs"), PATHS)
def test_paths_by_hand(
    path: tuple[int, ...], right: float, costs: tuple[float, ...], protocol: DecisionProtocol
) -> None:
    lattice = build_hand_lattice()
    nodes = index_nodes(lattice)
    chosen = always(lattice, 0)
    for depth, action in enumerate(path):
        chosen[nodes["p", path[:depth]]] = np.eye(2)[action]
    values = evaluate_probabilities(lattice, chosen, LENS, protocol)
    p = lattice.problem_ids.index("p")
    assert values.accuracy[p] == right
    assert values.cost[p] == costs[PROTOCOLS.index(protocol)]
    assert values.accuracy[1 - p] == 0.0
    assert values.cost[1 - p] == 5 + 4 + (3 * (11 + 1) if protocol == "judge" else 0)


def test_a_coin_by_hand() -> None:
    lattice = build_hand_lattice()
    values = evaluate_probabilities(lattice, np.full((6, 2), 0.5), LENS, "before")
    p = lattice.problem_ids.index("p")
    shares = [0.5 ** len(path) for path, _, _ in PATHS]
    assert values.accuracy[p] == sum(s * r for s, (_, r, _) in zip(shares, PATHS, strict=True))
    assert values.cost[p] == sum(s * c[0] for s, (_, _, c) in zip(shares, PATHS, strict=True))
    assert values.usage is not None
    assert values.usage[p].sum(axis=1).tolist() == [1.0, 1.0, 0.5]
    np.testing.assert_allclose(values.share_large, [0.5, 0.5, 0.5])


def test_share_large_counts_decisions_that_are_taken() -> None:
    lattice = build_hand_lattice()
    nodes = index_nodes(lattice)
    chosen = always(lattice, 0)
    chosen[nodes["p", ()]] = [0.25, 0.75]
    chosen[nodes["p", (0,)]] = [0.0, 1.0]
    share = evaluate_probabilities(lattice, chosen, LENS, "before").share_large
    # both problems decide at depth 0; only p at depths 1 and 2
    np.testing.assert_allclose(share, [0.75 / 2, 0.25, 0.0])


def test_share_large_of_a_depth_that_nobody_reaches_is_nan() -> None:
    lattice = build_hand_lattice()
    values = evaluate_probabilities(lattice, always(lattice, 1), LENS, "before")
    np.testing.assert_array_equal(values.share_large, [1.0, 1.0, np.nan])
    with pytest.raises(ValueError, match="without usage"):
        _ = Values(values.accuracy, values.cost).share_large


@pytest.mark.parametrize("action", [0, 1])
def test_always_one_model_is_that_models_own_path(action: int) -> None:
    """The model's rows of the store, followed from each root, in plain Python."""
    world = World(7)
    problems = [f"p{i}" for i in range(20)]
    tables = record(world, problems, 4, merge=True)
    lattice = build(tables, world.model_ids, 4)
    walker = Walker(tables, world.model_ids, 4)
    values = evaluate_probabilities(lattice, always(lattice, action), price(2), "before")
    for i, problem in enumerate(lattice.problem_ids):
        state, tokens, reading = walker.roots[problem], 0.0, 0.0
        rows = []
        while not walker.states[state]["is_terminal"]:
            kind = "tail" if len(rows) == 4 else "step"
            rows.append(walker.steps[state, world.model_ids[action], kind])
            state = rows[-1]["next_state_id"]
        assert values.accuracy[i] == walker.states[state]["is_correct"]
        # its own text is cached, so it reads each prompt's new tokens once
        seen = rows[0]["shared_prompt_tokens"]
        for row in rows:
            new = max(0, row["prompt_tokens"] - seen)
            uncached, cached, written = price(2).weights[action]
            reading += new * uncached + (row["prompt_tokens"] - new) * cached
            tokens += row["completion_tokens"] * written
            seen = row["prompt_tokens"] + row["completion_tokens"]
        assert values.cost[i] == pytest.approx(reading + tokens)


@given(seed=SEEDS, n_models=st.integers(2, 3), protocol=PROTOCOL)
@settings(max_examples=25, deadline=None)
def test_forward_pass_is_the_sum_over_all_paths(
    seed: int, n_models: int, protocol: DecisionProtocol
) -> None:
    world = World(seed, n_models=n_models)
    depth = 4 - n_models + 1
    tables = record(world, ["a", "b"], depth, merge=True)
    lattice = build(tables, world.model_ids, depth)
    walker = Walker(tables, world.model_ids, depth)
    nodes = index_nodes(lattice)
    chosen = draw_policy(lattice, seed)
    weights = price(n_models).weights.tolist()
    values = evaluate_probabilities(lattice, chosen, price(n_models), protocol)
    for i, problem in enumerate(lattice.problem_ids):
        accuracy = cost = total = 0.0
        finished = set()
        for plan in itertools.product(range(n_models), repeat=depth + 1):
            right, spent, path = walker.walk(
                problem, lambda so_far, plan=plan: plan[len(so_far)], weights, protocol
            )
            if path in finished:
                continue
            finished.add(path)
            share = 1.0
            for at, action in enumerate(path):
                share *= chosen[nodes[problem, path[:at]], action]
            total, accuracy, cost = total + share, accuracy + share * right, cost + share * spent
        assert total == pytest.approx(1.0)
        assert values.accuracy[i] == pytest.approx(accuracy, abs=1e-12)
        assert values.cost[i] == pytest.approx(cost)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_costs_add_up_over_steps(seed: int) -> None:
    """Cost of a path = sum of its edges, and costs under two lenses add up to their sum."""
    lattice = build_scripted(seed)
    chosen = draw_policy(lattice, seed)
    one, other = price(2), LENS
    both = Lens("both", "tokens", one.weights + other.weights)
    for protocol in PROTOCOLS:
        total = evaluate_probabilities(lattice, chosen, both, protocol).cost
        parts = [
            evaluate_probabilities(lattice, chosen, lens, protocol).cost for lens in (one, other)
        ]
        np.testing.assert_allclose(total, parts[0] + parts[1])


@given(seed=SEEDS, protocol=PROTOCOL, data=st.data())
@settings(max_examples=30, deadline=None)
def test_pointer_walk_is_the_forward_pass_of_zeros_and_ones(
    seed: int, protocol: DecisionProtocol, data: st.DataObject
) -> None:
    lattice = build_scripted(seed, 4)
    score = st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.9, 1.0])
    scores = np.array(
        data.draw(st.lists(score, min_size=lattice.n_nodes, max_size=lattice.n_nodes))
    )
    thresholds = np.array([-np.inf, 0.0, 0.2, 0.3, 0.5, 0.9, 1.0, 1.1, np.inf])
    values = follow_thresholds(lattice, scores, thresholds, price(2), protocol)
    assert values.accuracy.shape == values.cost.shape == (9, 4)
    for t, threshold in enumerate(thresholds):
        large = scores >= threshold
        chosen = np.stack([~large, large], axis=1).astype(float)
        expected = evaluate_probabilities(lattice, chosen, price(2), protocol)
        assert_equal(values.at(t), expected)
        np.testing.assert_allclose(values.share_large[t], expected.share_large)


@given(seed=SEEDS, protocol=PROTOCOL)
@settings(max_examples=20, deadline=None)
def test_pointer_walk_is_the_reference_walker(seed: int, protocol: DecisionProtocol) -> None:
    world = World(seed)
    tables = record(world, ["a", "b", "c"], 3, merge=True)
    lattice = build(tables, world.model_ids, 3)
    walker = Walker(tables, world.model_ids, 3)
    nodes = index_nodes(lattice)
    scores = np.random.default_rng(seed).random(lattice.n_nodes)
    thresholds = np.linspace(0, 1, 7)
    values = follow_thresholds(lattice, scores, thresholds, price(2), protocol)
    for t, threshold in enumerate(thresholds):
        for i, problem in enumerate(lattice.problem_ids):
            right, cost, _ = walker.walk(
                problem,
                lambda path, problem=problem, cut=threshold: int(
                    scores[nodes[problem, path]] >= cut
                ),
                price(2).weights.tolist(),
                protocol,
            )
            assert values.accuracy[t, i] == right
            assert values.cost[t, i] == pytest.approx(cost)


def test_a_sample_of_paths_agrees_with_the_expectation() -> None:
    """Monte Carlo: 4,000 walks of a random policy are within four standard errors."""
    world = World(11)
    tables = record(world, ["a"], 3, merge=True)
    lattice = build(tables, world.model_ids, 3)
    walker = Walker(tables, world.model_ids, 3)
    nodes, chosen = index_nodes(lattice), draw_policy(lattice, 3)
    rng = np.random.default_rng(0)
    walks = np.array(
        [
            walker.walk(
                "a",
                lambda path: int(rng.random() < chosen[nodes["a", path], 1]),
                LENS.weights.tolist(),
                "draft",
            )[:2]
            for _ in range(4000)
        ]
    )
    values = evaluate_probabilities(lattice, chosen, LENS, "draft")
    error = 4 * walks.std(axis=0) / np.sqrt(len(walks)) + 1e-9
    assert abs(walks[:, 0].mean() - values.accuracy[0]) <= error[0]
    assert abs(walks[:, 1].mean() - values.cost[0]) <= error[1]


def test_what_is_no_policy_is_refused() -> None:
    lattice = build_hand_lattice()
    for rows in (np.full((6, 2), 0.6), np.full((6, 2), np.nan), np.tile([1.5, -0.5], (6, 1))):
        with pytest.raises(ValueError, match="no distribution"):
            evaluate_probabilities(lattice, rows, LENS, "before")
    with pytest.raises(ValueError, match=r"shape \(5, 2\), expected \(6, 2\)"):
        evaluate_probabilities(lattice, np.full((5, 2), 0.5), LENS, "before")
    with pytest.raises(ValueError, match="unknown protocol"):
        evaluate_probabilities(lattice, np.full((6, 2), 0.5), LENS, "guess")  # type: ignore[arg-type]


def test_thresholds_need_two_models_and_numbers() -> None:
    three = build_scripted(n_models=3)
    with pytest.raises(ValueError, match="this lattice has 3"):
        follow_thresholds(three, np.zeros(three.n_nodes), np.array([0.5]), price(3), "before")
    lattice = build_hand_lattice()
    with pytest.raises(ValueError, match="shape"):
        follow_thresholds(lattice, np.zeros(3), np.array([0.5]), LENS, "before")
    with pytest.raises(ValueError, match="thresholds must not be NaN"):
        follow_thresholds(lattice, np.zeros(6), np.array([np.nan]), LENS, "before")
    scores = np.zeros(6)
    scores[index_nodes(lattice)["p", (1,)]] = np.nan
    follow_thresholds(lattice, scores, np.array([0.5]), LENS, "before")  # never gets there
    with pytest.raises(ValueError, match=r"score is NaN at node .* 'p', depth 1"):
        follow_thresholds(lattice, scores, np.array([0.5, 0.0]), LENS, "before")


def test_edge_costs_have_the_shape_of_decisions() -> None:
    lattice = build_hand_lattice()
    assert compute_edge_costs(lattice, LENS, "before").shape == (6, 2)
    assert (
        len(get_paths(lattice))
        == len(
            make_hand_tables().states.filter(~np.asarray(make_hand_tables().states["is_terminal"]))
        )
        == 7 - 1
    )


@pytest.mark.slow
def test_a_thousand_thresholds_in_under_a_second() -> None:
    """All problems at once, and how much faster that is than the reference walker."""
    world = World(1, end_share=0.05)
    problems = [f"p{i}" for i in range(400)]
    tables = record(world, problems, 5, merge=True)
    lattice = build(tables, world.model_ids, 5)
    scores = np.random.default_rng(0).random(lattice.n_nodes)
    thresholds = np.linspace(0, 1, 1000)
    start = time.process_time()
    values = follow_thresholds(lattice, scores, thresholds, LENS, "draft")
    fast = time.process_time() - start
    assert values.accuracy.shape == (1000, 400)
    walker, nodes = Walker(tables, world.model_ids, 5), index_nodes(lattice)
    start = time.process_time()
    for threshold in thresholds[::200]:
        for problem in problems:
            walker.walk(
                problem,
                lambda path, problem=problem, cut=threshold: int(
                    scores[nodes[problem, path]] >= cut
                ),
                LENS.weights.tolist(),
                "draft",
            )
    slow = (time.process_time() - start) * 200
    assert fast < 2.0, f"{fast:.2f} s for 1,000 thresholds of 400 problems"
    assert slow / fast > 25, f"only {slow / fast:.0f} times faster than one path at a time"
