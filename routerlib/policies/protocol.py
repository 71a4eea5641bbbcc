"""What a policy is, and the one place where its probabilities become decisions.

Invariants: a policy maps observations (n, F) to the probability of each model (n, K) and nothing
else: no threshold, no file, no network, no state that a call changes. Models are ordered by price,
so with two models column 1 is the large one. All probabilities lie in [0, 1], which makes the
thresholds of all policies comparable: 0 is always large, ``NEVER_LARGE`` always small.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from routerlib.features import Observations

Floats = NDArray[np.float64]

# Above every probability, and unlike infinity it survives a round trip through JSON.
NEVER_LARGE = 2.0


class Policy(Protocol):
    """Observations in, probabilities out. ``protocol`` names what it may see, and is billed."""

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    def probabilities(self, observations: Observations) -> Floats:
        """Probability of each model at n nodes: (n, K), rows sum to 1."""
        ...


@runtime_checkable
class SweptPolicy(Policy, Protocol):
    """A policy with a *setting* of its own, which is swept and calibrated in place of a threshold.

    Its probabilities are what it does, so they are drawn from and never cut: a lattice evaluates
    that exactly.
    """

    @property
    def setting_name(self) -> str:
        """What the setting is, for a reader."""
        ...

    @property
    def settings(self) -> Floats:
        """Settings worth trying (T,), from always large to always small as thresholds run."""
        ...

    def with_setting(self, setting: float) -> Policy:
        """The same policy at another setting."""
        ...


def decide(probabilities: Floats, threshold: float) -> NDArray[np.int64]:
    """Actions (n,) from probabilities (n, 2): large (1) where its probability is >= threshold.

    >>> decide(np.array([[0.7, 0.3], [0.5, 0.5]]), 0.5).tolist()
    [0, 1]
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != 2:
        raise ValueError(
            f"a single threshold decides between two models, got probabilities of shape "
            f"{probabilities.shape}; use the probabilities themselves for more models"
        )
    return (probabilities[:, 1] >= threshold).astype(np.int64)


def stack_probabilities(large: Floats) -> Floats:
    """Turn the probability of large (n,) into that of both models (n, 2)."""
    return np.stack((1.0 - large, large), axis=1)
