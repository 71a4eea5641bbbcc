"""Training of TRIM-Agg (Kapoor et al., arXiv 2601.10245): PPO on aggregates of process rewards.

Our understanding: the state is the reward of the current draft, the least reward of the earlier
steps, the length of the draft and the position; the return is correctness minus lambda times the
large model's tokens, one policy for each lambda. Changed to fit: the reward is learned from exact
process labels (``train.process_reward``); the earlier steps are told by their log-probabilities
(``policies.trim``); cost is all-in under a lens; there is one lambda, the chord's exchange rate as
in ``train.exact``, and the policy is thresholded and calibrated afterwards like all others.
Invariant: the rollouts are all that PPO sees, drawn from the seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from routerlib.costs import Lens
from routerlib.env.table import DecisionTable
from routerlib.features import Standardiser
from routerlib.lattice import Lattice, compute_edge_costs
from routerlib.policies.network import MLPPolicy
from routerlib.policies.process_reward import ProcessRewardPolicy
from routerlib.policies.trim import REWARD, AggregatedRewardPolicy, add_reward
from routerlib.train.ppo import PPOConfig, train_ppo
from routerlib.train.process_reward import train_process_reward
from routerlib.train.tree import build_tree, compute_exchange_rate

AGGREGATES = (REWARD, "min_mean_logprob", "mean_logprob", "draft_tokens", "steps_tokens", "depth")


@dataclass(frozen=True, slots=True)
class TrimAggConfig:
    """One training run: ``ppo``'s settings; ``exchange_rate_factor`` multiplies the chord's lambda;
    ``features`` names the inputs, of which those are taken that are recorded of any draft."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    exchange_rate_factor: float = 1.0
    features: tuple[str, ...] = AGGREGATES

    def __post_init__(self) -> None:
        if not self.exchange_rate_factor > 0.0:
            raise ValueError(
                f"exchange_rate_factor is {self.exchange_rate_factor}; give a number > 0"
            )
        if REWARD not in self.features:
            raise ValueError(f"features are {self.features}; {REWARD!r} must be among them")


def train_trim_agg(
    lattice: Lattice,
    config: TrimAggConfig,
    lens: Lens,
    seed: int,
    *,
    reward: ProcessRewardPolicy | None = None,
    name: str = "TRIM-Agg",
) -> AggregatedRewardPolicy:
    """Train on a complete lattice of training problems with two models, under protocol ``draft``.

    ``reward`` is the process reward model (None: train one on the same problems). Deterministic by
    ``seed``. Raises OffRecordError on missing expansions, and ValueError for a one-way lattice and
    when large is no better or no dearer than small.
    """
    if not lattice.allowed.all():
        raise ValueError(
            "PPO draws any action and a one-way lattice forbids some: train on the whole lattice "
            "and restrict the one that is evaluated"
        )
    exchange_rate = compute_exchange_rate(build_tree(lattice, lens, "draft"))
    reward = train_process_reward(lattice) if reward is None else reward
    seen = add_reward(reward, lattice.observe("draft"))
    recorded = set(seen.list_recorded())
    seen = seen.take(tuple(name for name in config.features if name in recorded))
    standardiser = Standardiser.fit(seen)
    values = standardiser.transform(seen)
    table = DecisionTable(
        lattice,
        np.vstack((values, np.zeros(values.shape[1]))).astype(np.float32),
        np.ones((lattice.n_nodes + 1, lattice.n_models), dtype=np.bool_),
        compute_edge_costs(lattice, lens, "draft"),
    )
    network = train_ppo(table, config.ppo, exchange_rate * config.exchange_rate_factor, seed)
    stored = asdict(config) | {"seed": seed, "lens": lens.name, "exchange_rate": exchange_rate}
    inner = MLPPolicy(name, "draft", standardiser, network, config.ppo.width, "tanh", stored)
    return AggregatedRewardPolicy(reward, inner)
