"""Stepwise routing on a mixture of confidences, in the manner of STEER (Lee et al., arXiv
2511.06190): the small model's confidences at its steps are taken for a mixture of sure and unsure
ones, and the posterior of "unsure" is the probability of the large model.

The paper's abstract says that the confidence is known before the step is written; here it is the
probability of the step's first token, which a probe shows and pays for. Invariant: one number in,
one number out; what was not recorded (NaN) is as likely unsure as the mixture says beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routerlib.features import Observations
from routerlib.policies.protocol import Floats


@dataclass(frozen=True, slots=True, eq=False)
class ConfidenceMixturePolicy:
    """Posterior of the component with the lower mean, of a mixture of two normal distributions.

    ``shares``, ``means`` and ``variances`` (2,) are those of the two components of
    exp(``probe_top_logprob``), a probability; the unsure one comes first. ``config`` is what it
    was fitted with. ValueError when the sizes, the order or a sign is wrong.
    """

    shares: Floats
    means: Floats
    variances: Floats
    name: str = "confidence mixture"
    protocol: str = "probe"
    config: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for values in (self.shares, self.means, self.variances):
            if values.shape != (2,):
                raise ValueError(f"{self.name}: give two components, got shape {values.shape}")
        if not self.means[0] <= self.means[1]:
            raise ValueError(f"{self.name}: the unsure component comes first, got {self.means}")
        if not (self.variances > 0.0).all() or not (self.shares > 0.0).all():
            raise ValueError(
                f"{self.name}: shares {self.shares} and variances {self.variances} must be > 0"
            )

    def probabilities(self, observations: Observations) -> Floats:
        confidence = np.exp(observations.column("probe_top_logprob"))
        known = np.isfinite(confidence)
        distance = (confidence[known, None] - self.means) ** 2 / self.variances
        log_density = np.log(self.shares) - 0.5 * (np.log(self.variances) + distance)
        odds = log_density[:, 0] - log_density[:, 1]
        probabilities = np.tile(self.shares[::-1], (len(confidence), 1))
        # Each column by itself: 1 - p would be 0 at most steps and their order be lost.
        probabilities[known] = np.exp(-np.logaddexp(0.0, np.stack((odds, -odds), axis=1)))
        return probabilities
