"""Two routers on a draft's process reward and the path it continues, in the manner of TRIM (Kapoor
et al., arXiv 2601.10245): TRIM-Agg and TRIM-POMDP.

Our understanding: both look at the reward of the draft, at the least reward of the steps before it,
at lengths and at the position. Changed to fit: a policy sees one node at a time, without the drafts
of the nodes above it, so the earlier steps are told by what a node shows of its path, their
log-probabilities under their authors; the reward is that of ``ProcessRewardPolicy``. Invariant: the
draft and nothing else is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from routerlib.features import Observations
from routerlib.policies.network import MLPPolicy
from routerlib.policies.process_reward import ProcessRewardPolicy
from routerlib.policies.protocol import Floats, stack_probabilities
from routerlib.policies.ranking import compute_log_odds

REWARD = "reward"  # a column that this module computes; no field of a lattice
PATH_SCORE = "min_mean_logprob"


def compute_reward(reward: ProcessRewardPolicy, observations: Observations) -> Floats:
    """Log-odds (n,) that the solution ends right when the draft is kept and the small model goes
    on."""
    return -compute_log_odds(reward.probabilities(observations))


def add_reward(reward: ProcessRewardPolicy, observations: Observations) -> Observations:
    """The observations with one more column, ``REWARD``: what ``compute_reward`` says."""
    column = compute_reward(reward, observations)[:, None]
    values = np.hstack((observations.values, column))
    return replace(observations, names=(*observations.names, REWARD), values=values)


def get_path_score(observations: Observations) -> Floats:
    """Mean log-probability (n,) of the least sure step so far, nats; 0 where none is known."""
    if PATH_SCORE not in observations.names:
        return np.zeros(len(observations))
    return np.nan_to_num(observations.column(PATH_SCORE))


def count_large(observations: Observations) -> NDArray[np.int64]:
    """Steps so far (n,) that the large model wrote; 0 where nobody's share is known."""
    if "share_large" not in observations.names:
        return np.zeros(len(observations), dtype=np.int64)
    steps = observations.column("share_large") * observations.column("depth")
    return np.rint(steps).astype(np.int64)


@dataclass(frozen=True, slots=True)
class AggregatedRewardPolicy:
    """TRIM-Agg: a network on the draft's reward and aggregates of the path.

    The inputs are the fields of ``network``'s standardiser, among them ``REWARD``, which ``reward``
    computes.
    """

    reward: ProcessRewardPolicy
    network: MLPPolicy

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def protocol(self) -> str:
        return self.network.protocol

    @property
    def config(self) -> dict[str, object]:
        return self.network.config

    def probabilities(self, observations: Observations) -> Floats:
        return self.network.probabilities(add_reward(self.reward, observations))


@dataclass(frozen=True, slots=True, eq=False)
class BeliefPolicy:
    """TRIM-POMDP: the advantage of the large model at what is believed of the path.

    What is known of a node is its depth, how many of the steps before it the large model wrote, one
    of C bins of the path's score and one of B bins of the draft's reward (log-odds), cut at
    ``path_edges`` (C - 1,) and ``reward_edges`` (B - 1,). The belief is a function of that, and so
    is ``advantage`` (D + 1, D + 1, C, B) of large over small, in accuracy; a node below depth D
    counts as one at D. The probability of large is sigma(advantage / ``temperature``). ValueError
    when the sizes do not fit.
    """

    reward: ProcessRewardPolicy
    path_edges: Floats
    reward_edges: Floats
    advantage: Floats
    temperature: float
    name: str = "TRIM-POMDP"
    protocol: str = "draft"
    config: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.path_edges) + 1, len(self.reward_edges) + 1)
        n_depths = len(self.advantage)
        if self.advantage.shape != (n_depths, n_depths, *expected):
            raise ValueError(
                f"{self.name}: advantage has shape {self.advantage.shape}; the edges ask for "
                f"(D + 1, D + 1, {expected[0]}, {expected[1]})"
            )

    def probabilities(self, observations: Observations) -> Floats:
        last = len(self.advantage) - 1
        found = self.advantage[
            np.minimum(observations.column("depth").astype(np.int64), last),
            np.minimum(count_large(observations), last),
            np.digitize(get_path_score(observations), self.path_edges),
            np.digitize(compute_reward(self.reward, observations), self.reward_edges),
        ]
        return stack_probabilities(np.exp(-np.logaddexp(0.0, -found / self.temperature)))
