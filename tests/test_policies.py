"""Known answers for the rules, the network, the ranks and the policy file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routerlib import policies
from routerlib.errors import HiddenFieldError
from routerlib.features import (
    FIELDS,
    PROTOCOLS,
    DecisionProtocol,
    Observations,
    Standardiser,
    is_visible,
)
from routerlib.policies.network import build_network
from routerlib.policies.ranking import compute_log_odds
from routerlib.train.regression import TreesRegression, regress_advantage


def observe(protocol: DecisionProtocol, n: int = 20, seed: int = 0) -> Observations:
    """All fields of a protocol, filled with noise; log-probabilities negative, depth whole."""
    names = tuple(name for name, field in FIELDS.items() if is_visible(field, protocol))
    values = np.random.default_rng(seed).random((n, len(names)))
    for j, name in enumerate(names):
        if name.endswith("logprob"):
            values[:, j] = -values[:, j]
    values[:, names.index("depth")] = np.arange(n) % 6
    return Observations(names, values, protocol)


def make_mlp(protocol: DecisionProtocol = "before", seed: int = 0) -> policies.MLPPolicy:
    standardiser = Standardiser.fit(observe(protocol))
    generator = torch.Generator().manual_seed(seed)
    network = build_network(len(standardiser.names), 2, 8, "tanh", generator)
    return policies.MLPPolicy("MLP", protocol, standardiser, network, 8, "tanh", {"seed": seed})


def make_budgeted(budget: float = 0.3) -> policies.BudgetedPolicy:
    standardiser = Standardiser.fit(observe("before"))
    generator = torch.Generator().manual_seed(0)
    network = build_network(len(standardiser.names) + 1, 2, 8, "tanh", generator)
    return policies.BudgetedPolicy(
        "budgeted", "before", standardiser, network, 8, "tanh", {"seed": 0}, budget
    )


RULES: list[policies.Policy] = [
    policies.AlwaysSmall(),
    policies.AlwaysLarge(),
    policies.RandomPolicy(0.3),
    policies.FirstSteps(),
    policies.LastSteps(),
    policies.ProblemLength(),
    policies.ProblemLength(short_to_large=False),
    policies.MeanLogprobThreshold(),
    policies.MinLogprobThreshold(),
    policies.FirstTokenEntropy(),
    policies.JudgeScoreThreshold(),
]


def make_trees() -> policies.TreesPolicy:
    observations = observe("before", n=60)
    target = observations.column("mean_logprob")
    policy = regress_advantage(
        TreesRegression(n_trees=3, min_samples_leaf=5),
        observations,
        target,
        np.ones(60),
        temperature=0.1,
        seed=0,
        name="trees",
    )
    assert isinstance(policy, policies.TreesPolicy)
    return policy


LEARNED: list[Callable[[], policies.Policy]] = [
    make_mlp,
    make_budgeted,
    make_trees,
    lambda: policies.EnsemblePolicy("both", (make_mlp(seed=0), make_mlp(seed=1))),
    lambda: policies.rank_policy(make_mlp(), observe("before"), np.ones(20)),
]


def every_policy() -> list[policies.Policy]:
    return RULES + [make() for make in LEARNED]


@pytest.mark.parametrize("policy", every_policy(), ids=lambda p: f"{p.name} {type(p).__name__}")
def test_probabilities_are_probabilities(policy: policies.Policy) -> None:
    observations = observe(policy.protocol)
    probabilities = policy.probabilities(observations)
    assert probabilities.shape == (20, 2)
    assert probabilities.min() >= 0.0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(probabilities, policy.probabilities(observations))
    assert policies.decide(probabilities, 0.0).all()
    assert not policies.decide(probabilities, policies.NEVER_LARGE).any()


def test_decide_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    assert policies.decide(probabilities, 0.5).tolist() == [0, 1, 1]


def test_decide_needs_two_models() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        policies.decide(np.full((4, 3), 1 / 3), 0.5)


def column(policy: policies.Policy, name: str, values: list[float]) -> np.ndarray:
    observations = Observations((name,), np.array(values)[:, None], policy.protocol)
    return policy.probabilities(observations)[:, 1]


def test_scores_by_hand() -> None:
    np.testing.assert_allclose(column(policies.FirstSteps(), "depth", [0, 1, 4]), [1, 1 / 2, 1 / 5])
    np.testing.assert_allclose(column(policies.LastSteps(), "depth", [0, 1, 4]), [0, 1 / 2, 4 / 5])
    mean = column(policies.MeanLogprobThreshold(), "draft_mean_logprob", [0.0, -np.log(4)])
    np.testing.assert_allclose(mean, [0.0, 0.75])
    least = column(policies.MinLogprobThreshold(), "draft_min_logprob", [0.0, -np.log(2)])
    np.testing.assert_allclose(least, [0.0, 0.5])
    entropy = column(policies.FirstTokenEntropy(), "probe_entropy", [0.0, np.log(2)])
    np.testing.assert_allclose(entropy, [0.0, 0.5])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_first_and_last_steps_at_the_threshold_of_k(k: int) -> None:
    observations = Observations(("depth",), np.arange(6.0)[:, None], "before")
    first = policies.decide(policies.FirstSteps().probabilities(observations), 1 / k)
    assert first.tolist() == [1] * k + [0] * (6 - k)
    last = policies.decide(policies.LastSteps().probabilities(observations), k / (1 + k))
    assert last.tolist() == [0] * k + [1] * (6 - k)


def test_problem_length_has_two_directions() -> None:
    words = [10.0, 40.0]
    short = column(policies.ProblemLength(), "problem_n_words", words)
    long = column(policies.ProblemLength(short_to_large=False), "problem_n_words", words)
    assert short[0] > short[1]
    assert long[0] < long[1]


def test_unknown_score_is_small_and_no_score_is_an_error() -> None:
    assert column(policies.FirstTokenEntropy(), "probe_entropy", [np.nan, 1.0])[0] == 0.0
    with pytest.raises(ValueError, match="probe_entropy"):
        column(policies.FirstTokenEntropy(), "probe_entropy", [np.nan, np.nan])


def test_judge_score_keeps_what_the_large_model_finds_useful() -> None:
    scores = column(policies.JudgeScoreThreshold(), "judge_usefulness", [0.0, 4.5, 7.0, 9.0])
    np.testing.assert_allclose(scores, [1.0, 0.5, 2 / 9, 0.0])
    # SpecReason's threshold of 7: a draft below it is rewritten.
    assert (scores > 1 - 7 / 9 + 1e-12).tolist() == [True, True, False, False]
    assert list(policies.JUDGE_BASELINES) == ["judge score"]
    assert "judge score" not in policies.BASELINES, "it needs more than a complete lattice"


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_random_needs_a_probability(p: float) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        policies.RandomPolicy(p)


@pytest.mark.parametrize(
    "policy", [p for p in RULES if p.protocol != "before"], ids=lambda p: str(p.name)
)
def test_rule_under_a_poorer_protocol_is_refused(policy: policies.Policy) -> None:
    for protocol in PROTOCOLS[: PROTOCOLS.index(policy.protocol)]:
        with pytest.raises(HiddenFieldError):
            policy.probabilities(observe(protocol))


def test_network_under_a_poorer_protocol_is_refused() -> None:
    with pytest.raises(HiddenFieldError):
        make_mlp("draft").probabilities(observe("probe"))


def test_network_ignores_fields_it_was_not_trained_on() -> None:
    rich = observe("draft")
    poor = Observations(*_columns_of(rich, "before"))
    mlp = make_mlp("before")
    np.testing.assert_array_equal(mlp.probabilities(rich), mlp.probabilities(poor))


def _columns_of(
    observations: Observations, protocol: DecisionProtocol
) -> tuple[tuple[str, ...], np.ndarray, DecisionProtocol]:
    names = tuple(n for n in observations.names if is_visible(FIELDS[n], protocol))
    return names, np.stack([observations.column(n) for n in names], axis=1), protocol


def test_network_is_made_from_its_generator_alone() -> None:
    observations = observe("before")
    torch.manual_seed(1)
    first = make_mlp(seed=3).probabilities(observations)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, make_mlp(seed=3).probabilities(observations))
    assert not np.allclose(first, make_mlp(seed=4).probabilities(observations))


@pytest.mark.parametrize("policy", [policies.RandomPolicy(), make_budgeted()], ids=lambda p: p.name)
def test_swept_policy_runs_from_always_large_to_always_small(policy: policies.SweptPolicy) -> None:
    observations = observe("before")
    assert isinstance(policy, policies.SweptPolicy)
    assert policy.setting_name
    assert (np.diff(policy.settings) < 0.0).all()
    large = np.array(
        [
            policy.with_setting(float(setting)).probabilities(observations)[:, 1]
            for setting in policy.settings
        ]
    )
    assert (large[0] == 1.0).all()
    assert (large[-1] == 0.0).all()
    assert len(np.unique(large[:, 0])) == len(large)


def test_only_swept_policies_have_settings() -> None:
    swept = {type(p) for p in every_policy() if isinstance(p, policies.SweptPolicy)}
    assert swept == {policies.RandomPolicy, policies.BudgetedPolicy}


@pytest.mark.parametrize("budget", [-0.1, 1.1, float("nan")])
def test_budget_must_be_a_share(budget: float) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        make_budgeted(budget)


class Fixed:
    """A policy that says what it was told."""

    def __init__(self, large: list[float], protocol: str = "before") -> None:
        self.name, self.protocol = "fixed", protocol
        self._large = np.array(large)

    def probabilities(self, observations: Observations) -> np.ndarray:
        return np.stack((1 - self._large, self._large), axis=1)


def test_ensemble_averages_by_hand() -> None:
    members = (Fixed([0.5, 0.9]), Fixed([0.8, 0.1]))
    observations = observe("before", n=2)
    arithmetic = policies.EnsemblePolicy("mean", members, "probabilities")
    np.testing.assert_allclose(arithmetic.probabilities(observations)[:, 1], [0.65, 0.5])
    # odds 1 and 4 average to 2, odds 9 and 1/9 to 1
    geometric = policies.EnsemblePolicy("mean", members, "logits")
    np.testing.assert_allclose(geometric.probabilities(observations)[:, 1], [2 / 3, 0.5])


def test_ensemble_needs_one_protocol() -> None:
    with pytest.raises(ValueError, match=r"before.*probe"):
        policies.EnsemblePolicy("mixed", (Fixed([0.5]), Fixed([0.5], "probe")))


def test_ranks_by_hand() -> None:
    ranked = policies.rank_policy(
        Fixed([0.9, 0.2, 0.9, 0.5]), observe("before", n=4), np.array([1.0, 4.0, 1.0, 2.0])
    )
    # weights 4, 2, 2 of the scores 0.2, 0.5, 0.9: middles at 2, 5, 7 of 8
    np.testing.assert_allclose(
        ranked.probabilities(observe("before", n=4))[:, 1], np.array([7, 2, 7, 5]) / 8
    )


def test_ranks_tell_saturated_scores_apart() -> None:
    observations = observe("before", n=3)
    logits = np.array([[0.0, 40.0], [0.0, 45.0], [0.0, 50.0]])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    saturated = Fixed([0.0] * 3)
    saturated.probabilities = lambda _: powers / powers.sum(axis=1, keepdims=True)  # type: ignore[method-assign]
    assert set(saturated.probabilities(observations)[:, 1]) == {1.0}
    ranked = policies.rank_policy(saturated, observations, np.ones(3))
    np.testing.assert_allclose(
        ranked.probabilities(observations)[:, 1], [1 / 6, 1 / 2, 5 / 6], atol=1e-12
    )


def test_ranks_need_weight() -> None:
    with pytest.raises(ValueError, match="reach"):
        policies.rank_policy(Fixed([0.5]), observe("before", n=1), np.zeros(1))


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12),
)
def test_ranks_keep_the_order(trained: list[float], new: list[float]) -> None:
    observations = observe("before", n=max(len(trained), len(new)))
    inner = Fixed(trained)
    ranked = policies.rank_policy(inner, observations, np.ones(len(trained)))
    inner._large = np.array(new)
    ranks = ranked.probabilities(observations)[:, 1]
    order = np.argsort(compute_log_odds(inner.probabilities(observations)), kind="stable")
    assert (np.diff(ranks[order]) >= 0.0).all()


@pytest.mark.parametrize("make", LEARNED)
def test_policy_file_round_trip(make: Callable[[], policies.Policy], tmp_path: Path) -> None:
    policy, path = make(), tmp_path / "deep" / "policy.pt"
    policies.save_policy(policy, path)
    loaded = policies.load_policy(path)
    assert (loaded.name, loaded.protocol) == (policy.name, policy.protocol)
    assert type(loaded) is type(policy)
    observations = observe("before", seed=9)
    np.testing.assert_array_equal(
        loaded.probabilities(observations), policy.probabilities(observations)
    )


def test_policy_file_keeps_the_configuration(tmp_path: Path) -> None:
    policies.save_policy(make_mlp(seed=5), tmp_path / "policy.pt")
    loaded = policies.load_policy(tmp_path / "policy.pt")
    assert isinstance(loaded, policies.MLPPolicy)
    assert loaded.config == {"seed": 5}


def test_policy_file_keeps_the_budget(tmp_path: Path) -> None:
    policies.save_policy(make_budgeted(0.7), tmp_path / "policy.pt")
    loaded = policies.load_policy(tmp_path / "policy.pt")
    assert isinstance(loaded, policies.BudgetedPolicy)
    assert (loaded.budget, loaded.config) == (0.7, {"seed": 0})


def test_rule_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="AlwaysSmall"):
        policies.save_policy(policies.AlwaysSmall(), tmp_path / "policy.pt")


def test_other_file_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 0}, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="found 0"):
        policies.load_policy(tmp_path / "policy.pt")
