"""Fitting the mixture of confidences that ``ConfidenceMixturePolicy`` thresholds.

Invariants: it sees the small model's own paths of the training problems and no outcome, so there is
nothing to label; all randomness comes from ``seed``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routerlib.lattice import Lattice
from routerlib.policies.mixture import ConfidenceMixturePolicy
from routerlib.policies.ranking import RankedPolicy, rank_policy

N_STARTS = 5


def train_confidence_mixture(lattice: Lattice, *, seed: int = 0) -> RankedPolicy:
    """Fit a two-component mixture to the small model's confidence at each step of its own paths.

    scikit-learn's expectation maximisation, best of ``N_STARTS`` starts. The posterior is near 0
    or 1 at most steps, so it is ranked among these steps, as learned policies are.
    ValueError for other than two models, or when fewer than two different confidences were
    recorded.
    """
    from sklearn.mixture import GaussianMixture

    if lattice.n_models != 2:
        raise ValueError(
            f"the mixture chooses between two models and this lattice has {lattice.n_models}: "
            "build it with a pair"
        )
    own = lattice.observe("probe").rows(list_own_nodes(lattice, 0))
    seen = own.column("probe_top_logprob")
    confidence = np.exp(seen[np.isfinite(seen)])
    if len(np.unique(confidence)) < 2:
        raise ValueError(
            f"{len(confidence)} confidences of the small model, not two different ones: record "
            "first-token log-probabilities, or use a router that needs none"
        )
    mixture = GaussianMixture(n_components=2, n_init=N_STARTS, random_state=seed)
    mixture.fit(confidence[:, None])
    order = np.argsort(mixture.means_[:, 0], kind="stable")
    policy = ConfidenceMixturePolicy(
        shares=np.asarray(mixture.weights_[order]),
        means=np.asarray(mixture.means_[order, 0]),
        variances=np.asarray(mixture.covariances_[order, 0, 0]),
        config={"seed": seed, "n_steps": len(confidence)},
    )
    return rank_policy(policy, own, np.ones(len(own)))


def list_own_nodes(lattice: Lattice, action: int) -> NDArray[np.int64]:
    """Return the nodes at which one model decides when it writes everything, as far as recorded."""
    found = []
    nodes = np.arange(lattice.n_problems)
    while len(nodes):
        found.append(nodes)
        children = lattice.next_node[nodes, action]
        nodes = children[children >= 0].astype(np.int64)
    return np.concatenate(found) if found else nodes
