"""Training of policies on recorded lattices."""

from __future__ import annotations

from routerlib.train.exact import ExactConfig, train_ensemble, train_exact
from routerlib.train.mixture import train_confidence_mixture
from routerlib.train.process_reward import train_process_reward
from routerlib.train.query_level import train_query_level

__all__ = [
    "ExactConfig",
    "train_confidence_mixture",
    "train_ensemble",
    "train_exact",
    "train_process_reward",
    "train_query_level",
]
