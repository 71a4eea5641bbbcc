"""Stable-Baselines3's PPO (Schulman et al., arXiv 1707.06347) on the problems of a lattice.

Invariants: what comes back is a plain network and nothing of Stable-Baselines3; that library seeds
the generators of the whole process, which are left as they were found; one torch thread, so that
the same seed gives the same network whatever the machine's number of cores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from routerlib.env.table import DecisionTable
from routerlib.policies.network import build_network


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """PPO's settings, in Stable-Baselines3's sense.

    ``width`` units in each of two hidden layers of the policy and of the critic; ``n_decisions``
    in all, in rounds of ``n_steps`` decisions on each of ``n_envs`` problems at a time; each round
    is gone through ``n_epochs`` times in batches of ``batch_size``; ``learning_rate`` of Adam;
    ``clip_range`` of the probability ratio; ``gae_lambda`` of the advantage's estimate;
    ``entropy_bonus`` accuracy paid per nat.
    """

    width: int = 64
    n_decisions: int = 200_000
    n_steps: int = 16
    n_envs: int = 128
    n_epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 0.001
    clip_range: float = 0.2
    gae_lambda: float = 0.95
    entropy_bonus: float = 0.01

    def __post_init__(self) -> None:
        for name in ("width", "n_decisions", "n_steps", "n_envs", "n_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number >= 1")
        for name in ("learning_rate", "clip_range"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number > 0")
        if not 0.0 <= self.gae_lambda <= 1.0:
            raise ValueError(f"gae_lambda is {self.gae_lambda}; give a number in [0, 1]")
        if not self.entropy_bonus >= 0.0:
            raise ValueError(f"entropy_bonus is {self.entropy_bonus}; give a number >= 0")
        size = self.n_steps * self.n_envs
        if self.batch_size < 2 or size % self.batch_size != 0:
            raise ValueError(
                f"batch_size is {self.batch_size}; give a divisor >= 2 of n_steps * n_envs, {size}"
            )


def train_ppo(
    table: DecisionTable, config: PPOConfig, cost_weight: float, seed: int
) -> torch.nn.Sequential:
    """Return the policy's network, (n, F) -> logits (n, K), float64, with frozen weights.

    It is as ``policies.network.build_network`` makes it, with tanh. Undiscounted: reward minus
    ``cost_weight`` times cost over a whole solution is what is maximised.
    """
    # Stable-Baselines3 brings pyplot and is wanted in training alone.
    from stable_baselines3 import PPO

    from routerlib.train.ppo_env import LatticeVecEnv

    with _keep_generators():
        env = LatticeVecEnv(table, config.n_envs, cost_weight)
        model = PPO(
            "MlpPolicy",
            env,
            learning_rate=config.learning_rate,
            n_steps=config.n_steps,
            batch_size=config.batch_size,
            n_epochs=config.n_epochs,
            gamma=1.0,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            ent_coef=config.entropy_bonus,
            policy_kwargs={
                "net_arch": [config.width, config.width],
                "activation_fn": torch.nn.Tanh,
            },
            seed=seed,
            device="cpu",
        )
        model.learn(config.n_decisions)
    n_fields, n_models = table.observations.shape[1], table.allowed.shape[1]
    network = build_network(n_fields, n_models, config.width, "tanh", torch.Generator())
    learned = (*model.policy.mlp_extractor.policy_net, model.policy.action_net)
    for ours, theirs in zip(network, learned, strict=True):
        ours.load_state_dict(theirs.state_dict())
    return network.requires_grad_(False)


@contextmanager
def _keep_generators() -> Iterator[None]:
    """Leave the process's generators and torch's number of threads as they are found."""
    python, numpy, n_threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_num_threads(n_threads)
