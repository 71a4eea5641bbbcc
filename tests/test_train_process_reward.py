"""What the process reward model learns on lattices whose answer is known, and on too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lattice_cases import build_hand_lattice, build_scripted

from routerlib.costs import Lens
from routerlib.lattice import (
    MISSING,
    Lattice,
    compute_process_labels,
    evaluate_probabilities,
    follow_thresholds,
)
from routerlib.policies import AlwaysSmall, ProcessRewardPolicy, load_policy, save_policy
from routerlib.train import train_process_reward
from routerlib.train.process_reward import REGULARISATION

MakeLattice = Callable[..., Lattice]


def make_telling(lattice: Lattice, seed: int = 0, strength: float = 2.0) -> Lattice:
    """The lattice with a draft field that says, with noise, how the small model's way ends."""
    rng = np.random.default_rng(seed)
    labels = compute_process_labels(lattice, 0)
    told = strength * labels + rng.normal(size=lattice.n_nodes)
    return replace(lattice, fields=dict(lattice.fields) | {"draft_mean_logprob": told})


def test_labels_by_hand() -> None:
    # p: small's A ends wrong, after AC as well, after BC right; q is always wrong.
    lattice = build_hand_lattice()
    small = dict(zip(lattice.node_state, compute_process_labels(lattice, 0), strict=True))
    assert small == {"root": 0, "q.root": 0, "A": 0, "B": 1, "AC": 0, "BC": 1}
    large = dict(zip(lattice.node_state, compute_process_labels(lattice, 1), strict=True))
    assert large == {"root": 1, "q.root": 0, "A": 1, "B": 1, "AC": 1, "BC": 1}


def test_labels_at_the_roots_are_what_the_model_alone_achieves(toy_lens: Lens) -> None:
    lattice = build_scripted(3, n_problems=20, depth=3)
    seen = lattice.observe("before")
    alone = evaluate_probabilities(lattice, AlwaysSmall().probabilities(seen), toy_lens, "before")
    labels = compute_process_labels(lattice, 0)
    np.testing.assert_array_equal(labels[: lattice.n_problems], alone.accuracy)


def test_a_path_that_was_not_recorded_has_no_label() -> None:
    lattice = build_hand_lattice()
    node = lattice.node_state.tolist().index("B")
    next_node, outcome = lattice.next_node.copy(), lattice.outcome.copy()
    next_node[node, 0], outcome[node, 0] = MISSING, np.nan
    labels = compute_process_labels(replace(lattice, next_node=next_node, outcome=outcome), 0)
    unknown = {state for state, x in zip(lattice.node_state, labels, strict=True) if np.isnan(x)}
    assert unknown == {"B"}


def test_a_field_that_tells_is_found() -> None:
    lattice = make_telling(build_scripted(3, n_problems=60, depth=2))
    policy = train_process_reward(lattice)
    names = policy.standardiser.names
    assert names[int(np.abs(policy.coefficients).argmax())] == "draft_mean_logprob"
    assert policy.coefficients[names.index("draft_mean_logprob")] > 0.0
    scores = policy.probabilities(lattice.observe("draft"))[:, 1]
    labels = compute_process_labels(lattice, 0)
    assert scores[labels == 0.0].mean() > scores[labels == 1.0].mean() + 0.2
    assert policy.config["regularisation"] in REGULARISATION
    assert policy.config["n_problems"] == 60


def test_fields_outside_the_default_set_must_be_asked_for() -> None:
    lattice = build_scripted(3, n_problems=40, depth=2)
    told = make_telling(lattice).fields["draft_mean_logprob"]
    lattice = replace(lattice, fields=dict(lattice.fields) | {"draft_std_logprob": told})
    assert "draft_std_logprob" not in train_process_reward(lattice).standardiser.names
    policy = train_process_reward(lattice, features=("depth", "draft_std_logprob"))
    assert policy.standardiser.names == ("depth", "draft_std_logprob")
    assert policy.coefficients[1] > 0.3


def test_it_routes_better_than_chance(toy_lens: Lens) -> None:
    """On problems that it was not trained on: more right than a coin of the same cost."""
    train, test = (
        make_telling(build_scripted(seed, n_problems=150, depth=2), seed) for seed in (1, 2)
    )
    scores = train_process_reward(train).probabilities(test.observe("draft"))[:, 1]
    settings = np.array([0.0, np.quantile(scores, 0.6), 2.0])
    values = follow_thresholds(test, scores, settings, toy_lens, "draft")
    (high, middle, low), cost = values.accuracy.mean(axis=1), values.cost.mean(axis=1)
    share = (cost[1] - cost[2]) / (cost[0] - cost[2])
    assert 0.2 < share < 0.8
    assert middle > low + share * (high - low)


def test_more_of_a_penalty_shrinks() -> None:
    lattice = make_telling(build_scripted(3, n_problems=60, depth=2))
    norms = [
        np.linalg.norm(train_process_reward(lattice, regularisation=[strength]).coefficients)
        for strength in (0.1, 100.0, 10_000.0)
    ]
    assert norms[0] > norms[1] > norms[2] > 0.0


def test_grades_of_other_paths_change_nothing() -> None:
    """Only what the small model makes of its own drafts is learned."""
    lattice = make_telling(build_scripted(5, n_problems=30, depth=2))
    outcome = lattice.outcome.copy()
    outcome[:, 1] = 1.0 - outcome[:, 1]
    one, two = (train_process_reward(x) for x in (lattice, replace(lattice, outcome=outcome)))
    np.testing.assert_array_equal(one.coefficients, two.coefficients)


def test_a_policy_file_holds_it(tmp_path: Path) -> None:
    lattice = make_telling(build_scripted(3, n_problems=20, depth=2))
    policy = train_process_reward(lattice)
    save_policy(policy, tmp_path / "reward.pt")
    again = load_policy(tmp_path / "reward.pt")
    assert isinstance(again, ProcessRewardPolicy)
    assert (again.name, again.protocol, again.config) == ("process reward", "draft", policy.config)
    seen = lattice.observe("draft")
    np.testing.assert_array_equal(again.probabilities(seen), policy.probabilities(seen))


def test_too_little_to_learn_from(make_toy_lattice: MakeLattice) -> None:
    lattice = build_scripted(3, n_problems=20, depth=2)
    with pytest.raises(ValueError, match="one or more numbers > 0"):
        train_process_reward(lattice, regularisation=[0.0])
    with pytest.raises(ValueError, match="two problems or more; this lattice has 2 and 1"):
        train_process_reward(lattice.select([0]))
    alike = make_toy_lattice(lambda kind, actions: False, [0, 1, 2], 1)
    with pytest.raises(ValueError, match="have the label 0: there is nothing to tell apart"):
        train_process_reward(alike)
