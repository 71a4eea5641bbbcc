"""A hand-made tree, and the copy of grown trees against the library that grew them."""

from __future__ import annotations

import numpy as np
import pytest

from routerlib.features import Observations
from routerlib.policies.trees import Trees, TreesPolicy
from routerlib.train.regression import TreesRegression, predict_advantage, regress_advantage


def observe(values: np.ndarray) -> Observations:
    names = ("depth", "problem_n_words", "probe_entropy")[: values.shape[1]]
    return Observations(names, values, "probe")


# depth <= 1 (NaN too): 0.1; else words <= 20: 0.2, more or NaN: -0.3. Then a tree of one leaf: 1.
STUMPS = Trees(
    roots=np.array([0, 5]),
    feature=np.array([0, 0, 1, 0, 0, 0]),
    threshold=np.array([1.0, 0.0, 20.0, 0.0, 0.0, 0.0]),
    nan_goes_left=np.array([True, False, False, False, False, False]),
    left=np.array([1, 1, 3, 3, 4, 5]),
    right=np.array([2, 1, 4, 3, 4, 5]),
    value=np.array([9.0, 0.1, 9.0, 0.2, -0.3, 1.0]),
    depth=2,
)


def test_trees_by_hand() -> None:
    rows = np.array([[1.0, 5.0], [np.nan, 50.0], [2.0, 20.0], [2.0, 21.0], [2.0, np.nan]])
    np.testing.assert_allclose(STUMPS.predict(rows), [1.1, 1.1, 1.2, 0.7, 0.7])
    policy = TreesPolicy("trees", "probe", ("depth", "problem_n_words"), STUMPS, -1.0, 0.1)
    large = policy.probabilities(observe(rows))[:, 1]
    np.testing.assert_allclose(large, 1.0 / (1.0 + np.exp([-1.0, -1.0, -2.0, 3.0, 3.0])))


def test_far_ends_keep_their_order() -> None:
    policy = TreesPolicy("trees", "probe", ("depth", "problem_n_words"), STUMPS, 0.0, 0.01)
    observations = observe(np.array([[1.0, 5.0], [2.0, 20.0]]))
    assert policy.probabilities(observations)[:, 1].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(predict_advantage(policy, observations, 0.01), [1.1, 1.2])


@pytest.mark.parametrize("seed", [0, 1])
def test_copied_trees_predict_what_the_library_does(seed: int) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    noise = np.random.default_rng(seed)
    values = noise.normal(size=(600, 3))
    values[noise.random(values.shape) < 0.1] = np.nan
    target = np.nan_to_num(values[:, 0], nan=2.0) * (values[:, 1] > 0) + noise.normal(size=600)
    weights = noise.random(600)
    settings = TreesRegression(n_trees=20, min_samples_leaf=10, l2=1.0)
    policy = regress_advantage(
        settings, observe(values), target, weights, temperature=0.7, seed=seed, name="trees"
    )
    library = HistGradientBoostingRegressor(
        max_iter=20,
        max_leaf_nodes=8,
        min_samples_leaf=10,
        learning_rate=0.05,
        l2_regularization=1.0,
        max_features=0.5,
        early_stopping=False,
        random_state=seed,
    ).fit(values, target, sample_weight=weights / weights.mean())
    others = np.vstack((values, noise.normal(size=(200, 3)), np.full((1, 3), np.nan)))
    np.testing.assert_allclose(
        predict_advantage(policy, observe(others), 0.7), library.predict(others), atol=1e-9
    )
