"""Query-level routing: one decision for each problem, then one model writes the whole solution.

The strongest simple rival of a stepwise policy, in the manner of RouteLLM (Ong et al., arXiv
2406.18665): a classifier estimates from the query alone how likely it is that the large model is
needed, and a threshold on that probability sets the budget. Invariants: only fields of the problem
are read, and equal problems get bit-equal scores, so a threshold sends whole problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from routerlib.features import FIELDS, Observations, Standardiser
from routerlib.policies.protocol import Floats, stack_probabilities


@dataclass(frozen=True, slots=True, eq=False)
class QueryLevelPolicy:
    """Logistic score of a problem's features: sigma(z . ``coefficients`` + ``intercept``).

    z (n, F) are the fields of ``standardiser``, all of group "problem", and ``coefficients`` (F,)
    are in log-odds per standard deviation. ``config`` is what it was trained with. ValueError when
    a field is not the problem's or the sizes differ.
    """

    standardiser: Standardiser
    coefficients: Floats
    intercept: float
    name: str = "query-level classifier"
    protocol: str = "before"
    config: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.standardiser.names
        others = [name for name in names if name not in FIELDS or FIELDS[name].group != "problem"]
        if others:
            raise ValueError(
                f"{self.name}: {', '.join(others)} may change within a problem; give fields named "
                "problem_* only"
            )
        if self.coefficients.shape != (len(names),):
            raise ValueError(
                f"{self.name}: coefficients have shape {self.coefficients.shape} for {len(names)} "
                "fields; give one for each"
            )

    def probabilities(self, observations: Observations) -> Floats:
        inputs = self.standardiser.transform(observations)
        # A sum over each row, not a matrix product, whose last bits may depend on the row.
        log_odds = (inputs * self.coefficients).sum(axis=1) + self.intercept
        return stack_probabilities(np.exp(-np.logaddexp(0.0, -log_odds)))
