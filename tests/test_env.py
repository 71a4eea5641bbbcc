"""Recorded problems as an environment: Gymnasium's own checks, and the replay's numbers again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_cases import (
    build,
    build_hand_lattice,
    build_scripted,
    draw_policy,
    index_nodes,
    make_hand_tables,
)

from routerlib.costs import Lens
from routerlib.env import END, ENV_ID, RoutingEnv, RoutingVectorEnv
from routerlib.errors import HiddenFieldError, OffRecordError
from routerlib.features import (
    FIELDS,
    PROTOCOLS,
    DecisionProtocol,
    Standardiser,
    get_feature_names,
    is_visible,
)
from routerlib.lattice import (
    Lattice,
    add_spending,
    evaluate_probabilities,
    follow_thresholds,
    restrict_one_way,
)

WEIGHTS = np.array([[1.0, 0.1, 2.0], [3.0, 0.5, 8.0], [9.0, 2.0, 30.0]])
PROTOCOL = st.sampled_from(PROTOCOLS)
SEEDS = st.integers(0, 10_000)


def price(lattice: Lattice) -> Lens:
    return Lens("usd", "USD", WEIGHTS[: lattice.n_models])


def fit(lattice: Lattice, protocol: DecisionProtocol, names: Sequence[str] = ()) -> Standardiser:
    chosen = tuple(names) or get_feature_names("all", protocol)
    lattice = add_spending(lattice, price(lattice), protocol, budget=100.0)
    return Standardiser.fit(lattice.observe(protocol).take(chosen))


def list_arguments(
    lattice: Lattice, protocol: DecisionProtocol = "before", **more: Any
) -> dict[str, Any]:
    """What both environments are made from, for the standardiser of ``all`` features."""
    return {
        "lattice": lattice,
        "lens": price(lattice),
        "protocol": protocol,
        "standardiser": fit(lattice, protocol),
    } | more


def make_single(lattice: Lattice, protocol: DecisionProtocol = "before", **more: Any) -> RoutingEnv:
    return RoutingEnv(**list_arguments(lattice, protocol, **more))


def walk(env: RoutingEnv, problem_id: str, table: np.ndarray) -> tuple[float, float]:
    """Reward and cost of the problem when action ``table[node]`` is taken at each node."""
    _, info = env.reset(options={"problem_id": problem_id})
    rewards, costs, done = [], [], False
    while not done:
        _, reward, done, _, info = env.step(table[info["node"]])
        rewards.append(reward)
        costs.append(info["cost"])
    assert rewards[:-1] == [0.0] * (len(rewards) - 1)
    assert info["is_correct"] == bool(rewards[-1])
    assert info["n_decisions"] == len(costs)
    assert info["total_cost"] == sum(costs)
    return rewards[-1], info["total_cost"]


# --- the interface ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("n_models", [1, 2, 3])
def test_gymnasiums_checker_passes(protocol: DecisionProtocol, n_models: int) -> None:
    lattice = build_scripted(n_models=n_models)
    env = gymnasium.make(ENV_ID, **list_arguments(lattice, protocol))
    check_env(env.unwrapped)
    assert env.observation_space.shape == (len(get_feature_names("all", protocol)),)
    assert env.action_space == gymnasium.spaces.Discrete(n_models)


def test_training_and_test_problems_have_one_space() -> None:
    spaces = [make_single(build_scripted(seed)).observation_space for seed in (0, 1)]
    assert spaces[0] == spaces[1]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(("n_models", "one_way"), [(2, False), (2, True), (3, True)])
def test_vector_and_single_environment_agree_step_by_step(
    mode: AutoresetMode, n_models: int, one_way: bool
) -> None:
    arguments = list_arguments(
        build_scripted(4, n_models=n_models), "probe", one_way=one_way, cost_weight=0.01
    )
    ours = gymnasium.make_vec(ENV_ID, num_envs=5, autoreset_mode=mode, **arguments)
    theirs = gymnasium.make_vec(
        ENV_ID,
        num_envs=5,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **arguments,
    )
    assert isinstance(ours, RoutingVectorEnv)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is mode
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    assert data_equivalence(ours.reset(seed=8), theirs.reset(seed=8), exact=True)
    n_ended = 0
    for number in range(60):
        masks = ours.action_masks()
        np.testing.assert_array_equal(masks, np.array(theirs.call("action_masks")))  # type: ignore[attr-defined]
        actions = np.where(masks, rng.random(masks.shape), -1.0).argmax(axis=1)
        found, expected = ours.step(actions), theirs.step(actions)
        assert data_equivalence(found, expected, exact=True), number
        n_ended += int(found[2].sum())
        if number == 30:
            assert data_equivalence(ours.reset(), theirs.reset(), exact=True)
    assert n_ended > 40
    options = {"problem_id": "p1"}
    assert data_equivalence(ours.reset(options=options), theirs.reset(options=options), exact=True)


def test_the_vector_environment_can_be_asked_for_problems() -> None:
    envs = RoutingVectorEnv(3, **list_arguments(build_scripted()))
    _, info = envs.reset(options={"problem_id": ["p2", "p0", "p2"]})
    assert info["problem_id"].tolist() == ["p2", "p0", "p2"]
    for wrong in (["p0"], 7):
        with pytest.raises(ValueError, match="one for each of 3 episodes"):
            envs.reset(options={"problem_id": wrong})


def test_what_is_returned_is_the_callers_own() -> None:
    """Changing an observation or a mask changes nothing later."""
    env = make_single(build_scripted())
    envs = RoutingVectorEnv(2, **list_arguments(build_scripted()))
    for observation, masks in (
        (env.reset(seed=0)[0], env.action_masks()),
        (envs.reset(seed=0)[0], envs.action_masks()),
    ):
        observation[:] = 99.0
        masks[:] = False
    assert not (env.reset(seed=0)[0] == 99.0).any()
    assert not (envs.reset(seed=0)[0] == 99.0).any()
    assert env.action_masks().all()
    assert envs.action_masks().all()


def test_wrong_arguments_are_refused() -> None:
    lattice = build_scripted()
    env = make_single(lattice)
    with pytest.raises(ValueError, match="'q' is not among the 3"):
        env.reset(options={"problem_id": "q"})
    with pytest.raises(ValueError, match=r"unknown options \['problem'\]"):
        env.reset(options={"problem": "p0"})
    with pytest.raises(ValueError, match="num_envs is 0"):
        RoutingVectorEnv(0, **list_arguments(lattice))
    with pytest.raises(ValueError, match="give NEXT_STEP or SAME_STEP"):
        RoutingVectorEnv(1, **list_arguments(lattice, autoreset_mode=AutoresetMode.DISABLED))
    env.reset()
    for action in (-1, 2):
        with pytest.raises(InvalidAction, match=rf"action is {action}: give .* 0\.\.1"):
            env.step(action)
    with pytest.raises(TypeError):
        env.step(0.5)  # type: ignore[arg-type]
    envs = RoutingVectorEnv(2, **list_arguments(lattice))
    envs.reset()
    for actions in ([0], [0.0, 1.0], [[0, 1]]):
        with pytest.raises(InvalidAction, match=r"give \(2,\) whole numbers"):
            envs.step(actions)


# --- the replay's numbers --------------------------------------------------------------------


@given(seed=SEEDS, n_models=st.integers(2, 3), protocol=PROTOCOL, one_way=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_policy_earns_and_costs_what_the_replay_says(
    seed: int, n_models: int, protocol: DecisionProtocol, one_way: bool
) -> None:
    """Per problem and exactly, in both environments."""
    whole = build_scripted(seed, n_models=n_models)
    lattice = restrict_one_way(whole) if one_way else whole
    options = np.random.default_rng(seed).random(lattice.next_node.shape)
    table = np.where(lattice.allowed, options, -1.0).argmax(axis=1)
    values = evaluate_probabilities(lattice, np.eye(n_models)[table], price(lattice), protocol)
    arguments = list_arguments(whole, protocol, one_way=one_way)
    env = RoutingEnv(**arguments)
    found = [walk(env, problem_id, table) for problem_id in lattice.problem_ids]
    np.testing.assert_array_equal(np.transpose(found), [values.accuracy, values.cost])
    envs = RoutingVectorEnv(whole.n_problems, **arguments)
    _, info = envs.reset(options={"problem_id": list(lattice.problem_ids)})
    right, cost = np.full((2, whole.n_problems), np.nan)
    while np.isnan(cost).any():
        actions = np.where(info["node"] == END, 0, table[info["node"]])
        _, rewards, ended, _, info = envs.step(actions)
        first = ended & np.isnan(cost)
        right[first], cost[first] = rewards[first], info.get("total_cost", cost)[first]
    np.testing.assert_array_equal([right, cost], [values.accuracy, values.cost])


def test_a_threshold_on_what_is_observed_gives_the_replays_numbers() -> None:
    """Decided from the observation itself, not from the node."""
    lattice = build_scripted(5, n_problems=8)
    standardiser = fit(lattice, "probe", ("probe_entropy", "depth"))
    scores = standardiser.transform(lattice.observe("probe"))[:, 0].astype(np.float32)
    threshold = float(np.median(scores))
    values = follow_thresholds(lattice, scores, np.array([threshold]), price(lattice), "probe")
    env = make_single(lattice, "probe", standardiser=standardiser)
    for number, problem_id in enumerate(lattice.problem_ids):
        observation, _ = env.reset(options={"problem_id": problem_id})
        reward, done = 0.0, False
        while not done:
            observation, reward, done, _, info = env.step(int(observation[0] >= threshold))
        assert (reward, info["total_cost"]) == (
            values.accuracy[0, number],
            values.cost[0, number],
        )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_paths_weighted_by_a_coin_make_the_expected_values(
    protocol: DecisionProtocol,
) -> None:
    """Every sequence of actions of a problem, once, by its probability under a random policy."""
    lattice = build_scripted(2)
    policy = draw_policy(lattice, 2)
    values = evaluate_probabilities(lattice, policy, price(lattice), protocol)
    env = make_single(lattice, protocol)
    for number, problem_id in enumerate(lattice.problem_ids):
        right = cost = mass = 0.0
        waiting: list[tuple[int, ...]] = [()]
        while waiting:
            path = waiting.pop()
            _, info = env.reset(options={"problem_id": problem_id})
            probability, reward, done = 1.0, 0.0, False
            for action in path:
                probability *= policy[info["node"], action]
                _, reward, done, _, info = env.step(action)
            if not done:
                waiting += [(*path, 0), (*path, 1)]
                continue
            mass += probability
            right += probability * reward
            cost += probability * info["total_cost"]
        assert mass == pytest.approx(1.0)
        assert right == pytest.approx(values.accuracy[number])
        assert cost == pytest.approx(values.cost[number])


def test_a_coin_comes_near_its_expected_values() -> None:
    lattice = build_scripted(9, n_problems=6)
    n_episodes = 3000
    chosen = np.full((lattice.n_nodes, 2), 0.5)
    values = evaluate_probabilities(lattice, chosen, price(lattice), "draft")
    envs = RoutingVectorEnv(n_episodes, **list_arguments(lattice, "draft"))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    right, cost = np.full((2, n_episodes), np.nan)
    while np.isnan(cost).any():
        _, rewards, ended, _, info = envs.step(rng.integers(2, size=n_episodes))
        first = ended & np.isnan(cost)
        right[first], cost[first] = rewards[first], info.get("total_cost", cost)[first]
    for sample, expected in ((right, values.accuracy.mean()), (cost, values.cost.mean())):
        error = sample.std() / np.sqrt(n_episodes)
        assert abs(sample.mean() - expected) < 4 * error


def test_the_costs_weight_makes_one_reward() -> None:
    lattice = build_scripted(3)
    plain, mixed = make_single(lattice), make_single(lattice, cost_weight=0.01)
    for env in (plain, mixed):
        env.reset(seed=1)
    done = False
    while not done:
        _, reward, done, _, info = plain.step(1)
        assert mixed.step(1)[1] == reward - 0.01 * info["cost"]


# --- what is seen ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_observation_is_the_lattices_standardised_by_training_problems(
    protocol: DecisionProtocol,
) -> None:
    train, test = build_scripted(0, n_problems=5), build_scripted(1, n_problems=4)
    standardiser = fit(train, protocol)
    expected = standardiser.transform(test.observe(protocol)).astype(np.float32)
    env = make_single(test, protocol, standardiser=standardiser)
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation, info = env.reset()
        done = False
        while not done:
            assert observation.dtype == np.float32
            np.testing.assert_array_equal(observation, expected[info["node"]])
            observation, _, done, _, info = env.step(int(rng.integers(2)))
        assert info["node"] == END
        assert not observation.any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hidden_fields_permuted_change_no_observation(protocol: DecisionProtocol) -> None:
    lattice = build_scripted(6)
    rng = np.random.default_rng(0)
    fields = {
        name: values if is_visible(FIELDS[name], protocol) else rng.permutation(values)
        for name, values in lattice.fields.items()
    }
    arguments = list_arguments(lattice, protocol)
    one = RoutingVectorEnv(4, **arguments)
    other = RoutingVectorEnv(4, **arguments | {"lattice": replace(lattice, fields=fields)})
    assert data_equivalence(one.reset(seed=0), other.reset(seed=0), exact=True)
    for _ in range(12):
        actions = rng.integers(2, size=4)
        assert data_equivalence(one.step(actions), other.step(actions), exact=True)


def test_a_standardiser_with_hidden_fields_is_refused() -> None:
    lattice = build_scripted()
    for environment, first in ((RoutingEnv, ()), (RoutingVectorEnv, (2,))):
        with pytest.raises(HiddenFieldError, match="'probe' hides field 'draft"):
            environment(
                *first, **list_arguments(lattice, "probe", standardiser=fit(lattice, "draft"))
            )  # type: ignore[operator]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_money_spent_and_left_is_observed(protocol: DecisionProtocol) -> None:
    lattice = build_scripted(2)
    names = (f"spent_{protocol}", f"budget_left_{protocol}")
    standardiser = Standardiser(names, np.zeros(2), np.ones(2))
    env = make_single(lattice, protocol, standardiser=standardiser, budget=70.0)
    observation, _ = env.reset(seed=0)
    total, done = 0.0, False
    while not done:
        np.testing.assert_allclose(observation, [total, 70.0 - total], rtol=1e-6)
        observation, _, done, _, info = env.step(1)
        total += info["cost"]
    assert total == info["total_cost"]
    with pytest.raises(KeyError, match="budget_left"):
        make_single(lattice, protocol, standardiser=standardiser)


# --- one way ---------------------------------------------------------------------------------


def test_one_way_masks_what_goes_back() -> None:
    lattice = build_scripted(1, n_models=3, end_share=0.0)
    env = make_single(lattice, one_way=True)
    envs = RoutingVectorEnv(2, **list_arguments(lattice, one_way=True))
    env.reset(seed=0)
    envs.reset(seed=0)
    assert env.action_masks().tolist() == [True, True, True]
    env.step(1)
    envs.step([1, 0])
    assert env.action_masks().dtype == np.bool_
    assert env.action_masks().tolist() == [False, True, True]
    assert envs.action_masks().tolist() == [[False, True, True], [True, True, True]]
    with pytest.raises(InvalidAction, match="goes back to model 'm0', which one-way mode forbids"):
        env.step(0)
    with pytest.raises(InvalidAction, match="'m0'"):
        envs.step([0, 0])
    # the refused action changed nothing
    assert env.step(2)[4]["node"] >= 0
    assert env.action_masks().tolist() == [False, False, True]
    assert envs.step([1, 2])[4]["node"].min() >= 0
    _, _, done, _, info = env.step(2)
    assert not done
    _, _, done, _, info = env.step(2)
    assert done
    assert info["n_decisions"] == 4
    assert env.action_masks().all()


def test_masks_reach_through_gymnasiums_wrappers() -> None:
    env = gymnasium.make(ENV_ID, **list_arguments(build_scripted(end_share=0.0), one_way=True))
    env.reset(seed=0)
    env.step(1)
    assert env.get_wrapper_attr("action_masks")().tolist() == [False, True]


@pytest.mark.parametrize("protocol", ["probe", "draft", "judge"])
def test_where_one_action_is_left_nothing_is_probed(protocol: DecisionProtocol) -> None:
    lattice = build_scripted(3, end_share=0.0)
    names = (*get_feature_names("all", protocol), f"spent_{protocol}")
    standardiser = fit(lattice, protocol, names)
    hidden = [not is_visible(FIELDS[n], "before") and FIELDS[n].group != "spending" for n in names]
    one_way = restrict_one_way(lattice)
    seen = add_spending(one_way, price(lattice), protocol).observe(protocol)
    expected = standardiser.transform(seen).astype(np.float32)
    env = make_single(lattice, protocol, standardiser=standardiser, one_way=True)
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(observation, expected[info["node"]])
    observation, _, _, _, info = env.step(1)
    full = expected[info["node"]]
    assert full[hidden].any()
    np.testing.assert_array_equal(observation, np.where(hidden, 0.0, full))
    assert observation[-1] == full[-1] != 0.0  # what was spent is known


# --- episodes --------------------------------------------------------------------------------


def test_an_episode_must_be_started_and_ends() -> None:
    env = make_single(build_hand_lattice())
    assert env.action_masks().all()
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(options={"problem_id": "q"})
    assert env.step(0)[2]
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step"):
        env.step(0)
    env.reset()
    env.step(0)
    envs = RoutingVectorEnv(2, **list_arguments(build_hand_lattice()))
    with pytest.raises(ResetNeeded):
        envs.step([0, 0])
    envs.reset()
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.step([0, 0])
    with pytest.raises(ClosedEnvironmentError):
        envs.reset()


def draw_ids(env: RoutingEnv, n: int) -> list[str]:
    return [env.reset()[1]["problem_id"] for _ in range(n)]


def test_every_epoch_takes_each_problem_once_in_another_order() -> None:
    lattice = build_scripted(n_problems=12, depth=0)
    env = make_single(lattice)
    first = [env.reset(seed=3)[1]["problem_id"], *draw_ids(env, 11)]
    second = draw_ids(env, 12)
    assert sorted(first) == sorted(second) == sorted(lattice.problem_ids)
    assert first != second
    # a problem of choice is not taken from the epoch; the same seed gives the same epochs
    again = [env.reset(seed=3)[1]["problem_id"], *draw_ids(env, 5)]
    env.reset(options={"problem_id": "p3"})
    again += draw_ids(env, 18)
    assert again == first + second
    other = [env.reset(seed=4)[1]["problem_id"], *draw_ids(env, 11)]
    assert other != first


def test_a_step_that_was_never_recorded_is_an_error() -> None:
    tables = make_hand_tables()
    lacking = replace(tables, steps=tables.steps.filter(pl.col("id") != "A-large"))
    lattice = build(lacking, ("small", "large"), 2)
    env = make_single(lattice)
    _, info = env.reset(options={"problem_id": "p"})
    assert info["node"] == index_nodes(lattice)["p", ()]
    env.step(0)
    with pytest.raises(OffRecordError, match="step of model 'large' was never recorded"):
        env.step(1)
    assert env.step(0)[2]
    # a probe needs the small model's step everywhere
    lacking = replace(tables, steps=tables.steps.filter(pl.col("id") != "B-small"))
    env = make_single(build(lacking, ("small", "large"), 2), "probe")
    env.reset(options={"problem_id": "p"})
    env.step(1)
    with pytest.raises(OffRecordError, match="step of model 'small' was never recorded"):
        env.step(1)


# --- Stable-Baselines3 -----------------------------------------------------------------------


def test_stable_baselines_trains_on_it_as_it_is(
    first_step_lattice: Lattice, toy_lens: Lens
) -> None:
    """PPO finds which problems want the large model: 0.6 are right with one model for all."""
    from stable_baselines3 import PPO

    names = ("problem_n_words", "depth")
    standardiser = Standardiser.fit(first_step_lattice.observe("before").take(names))
    env = RoutingEnv(first_step_lattice, toy_lens, "before", standardiser)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, learning_rate=0.01, seed=0)
    model.learn(768)
    seen = standardiser.transform(first_step_lattice.observe("before")).astype(np.float32)
    table, _ = model.predict(seen, deterministic=True)
    values = evaluate_probabilities(first_step_lattice, np.eye(2)[table], toy_lens, "before")
    assert values.accuracy.mean() > 0.9
