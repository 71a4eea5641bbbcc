"""A process reward model as a router: the large model rewrites a draft of the small one whose
reward is low.

In the manner of RSD (Liao et al., arXiv 2501.19324) and of TRIM's threshold policy (Kapoor et al.,
arXiv 2601.10245), which ask a reward model of several billion weights about each draft. Changed to
fit: the reward is learned from exact process labels of the training lattices, by a logistic
regression on what protocol ``draft`` shows, so it costs nothing beyond the draft and knows less of
mathematics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routerlib.features import Observations, Standardiser
from routerlib.policies.protocol import Floats, stack_probabilities


@dataclass(frozen=True, slots=True, eq=False)
class ProcessRewardPolicy:
    """Score 1 - reward, where the reward sigma(z . ``coefficients`` + ``intercept``) is the
    probability that the solution ends right when the small model's draft is kept and it goes on.

    z (n, F) are the fields of ``standardiser`` and ``coefficients`` (F,) are in log-odds per
    standard deviation. ``config`` is what it was trained with. ValueError when the sizes differ.
    """

    standardiser: Standardiser
    coefficients: Floats
    intercept: float
    name: str = "process reward"
    protocol: str = "draft"
    config: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.coefficients.shape != (len(self.standardiser.names),):
            raise ValueError(
                f"{self.name}: coefficients have shape {self.coefficients.shape} for "
                f"{len(self.standardiser.names)} fields; give one for each"
            )

    def probabilities(self, observations: Observations) -> Floats:
        inputs = self.standardiser.transform(observations)
        log_odds = (inputs * self.coefficients).sum(axis=1) + self.intercept
        return stack_probabilities(np.exp(-np.logaddexp(0.0, log_odds)))
