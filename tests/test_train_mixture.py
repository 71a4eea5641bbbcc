"""What the mixture of confidences learns where the two populations are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lattice_cases import build_hand_lattice, build_scripted

from routerlib.lattice import Lattice
from routerlib.policies import ConfidenceMixturePolicy
from routerlib.train import train_confidence_mixture
from routerlib.train.mixture import list_own_nodes


def with_confidences(lattice: Lattice, confidences: np.ndarray) -> Lattice:
    return replace(
        lattice, fields=dict(lattice.fields) | {"probe_top_logprob": np.log(confidences)}
    )


def fit(lattice: Lattice, seed: int = 0) -> ConfidenceMixturePolicy:
    """The mixture itself, below the ranks."""
    inner = train_confidence_mixture(lattice, seed=seed).inner
    assert isinstance(inner, ConfidenceMixturePolicy)
    return inner


def make_populations(seed: int = 0) -> tuple[Lattice, np.ndarray]:
    """One confidence in three is drawn around 0.4, the others around 0.9."""
    lattice = build_scripted(seed, n_problems=150, depth=2)
    rng = np.random.default_rng(seed)
    unsure = rng.random(lattice.n_nodes) < 1 / 3
    drawn = np.where(unsure, rng.normal(0.4, 0.08, len(unsure)), rng.normal(0.9, 0.03, len(unsure)))
    return with_confidences(lattice, np.clip(drawn, 0.01, 1.0)), unsure


def test_own_nodes_by_hand() -> None:
    lattice = build_hand_lattice()
    nodes = list_own_nodes(lattice, 0)
    assert nodes[: lattice.n_problems].tolist() == list(range(lattice.n_problems))
    for node in nodes[lattice.n_problems :]:
        assert lattice.parent_action[node] == 0
        assert lattice.parent[node] in nodes


def test_the_two_populations_are_found() -> None:
    lattice, unsure = make_populations()
    policy = fit(lattice)
    np.testing.assert_allclose(policy.means, [0.4, 0.9], atol=0.03)
    np.testing.assert_allclose(policy.shares, [1 / 3, 2 / 3], atol=0.06)
    np.testing.assert_allclose(np.sqrt(policy.variances), [0.08, 0.03], atol=0.02)
    large = policy.probabilities(lattice.observe("probe"))[:, 1] >= 0.5
    assert (large == unsure).mean() > 0.98


def test_only_the_small_models_own_path_counts() -> None:
    lattice, _ = make_populations()
    own = list_own_nodes(lattice, 0)
    changed = np.full(lattice.n_nodes, 0.123)
    changed[own] = np.exp(lattice.fields["probe_top_logprob"][own])
    one = fit(lattice)
    two = fit(with_confidences(lattice, changed))
    np.testing.assert_allclose(one.means, two.means)
    assert one.config == two.config == {"seed": 0, "n_steps": len(own)}


def test_outcomes_are_not_looked_at() -> None:
    lattice, _ = make_populations()
    wrong = replace(lattice, outcome=np.where(np.isnan(lattice.outcome), np.nan, 0.0))
    np.testing.assert_array_equal(fit(lattice).means, fit(wrong).means)


def test_same_seed_same_policy() -> None:
    lattice, _ = make_populations()
    first, again = (fit(lattice, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.means, again.means)
    assert first.config["seed"] == 4


def test_saturated_posteriors_keep_their_order() -> None:
    """Far below the unsure mean the posterior is 1 to the last bit; its rank still tells."""
    lattice, _ = make_populations()
    policy = train_confidence_mixture(lattice)
    observations = lattice.observe("probe")
    confidence = np.exp(observations.column("probe_top_logprob"))
    between = (confidence > 0.3) & (confidence < 0.5)
    ranks = policy.probabilities(observations)[between, 1]
    assert len(np.unique(policy.inner.probabilities(observations)[between, 1])) < between.sum() / 2
    assert len(np.unique(ranks)) > 0.9 * between.sum()
    assert (np.diff(ranks[np.argsort(confidence[between])]) <= 0.0).all()


def test_lattices_it_cannot_use_are_named() -> None:
    with pytest.raises(ValueError, match="this lattice has 3"):
        train_confidence_mixture(build_scripted(n_models=3, depth=1))
    lattice = build_scripted(depth=1)
    with pytest.raises(ValueError, match="not two different ones"):
        train_confidence_mixture(with_confidences(lattice, np.full(lattice.n_nodes, 0.5)))
    with pytest.raises(ValueError, match="0 confidences"):
        train_confidence_mixture(with_confidences(lattice, np.full(lattice.n_nodes, np.nan)))
