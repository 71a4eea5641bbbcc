"""Training of policies on recorded lattices."""

from __future__ import annotations

from routerlib.train.budgeted import BudgetedConfig, train_budgeted, train_constrained
from routerlib.train.cache import PolicyCache
from routerlib.train.cpo import CPOConfig, train_cpo, train_cpo_on_rollouts
from routerlib.train.ensemble import rank_ensemble
from routerlib.train.exact import ExactConfig, train_ensemble, train_exact
from routerlib.train.fitted import FittedConfig, train_fitted
from routerlib.train.mixture import train_confidence_mixture
from routerlib.train.ppo import PPOConfig
from routerlib.train.process_reward import train_process_reward
from routerlib.train.query_level import train_query_level
from routerlib.train.regression import MLPRegression, TreesRegression
from routerlib.train.trim_agg import TrimAggConfig, train_trim_agg
from routerlib.train.trim_pomdp import TrimPOMDPConfig, train_trim_pomdp
from routerlib.train.untrained import make_untrained

__all__ = [
    "BudgetedConfig",
    "CPOConfig",
    "ExactConfig",
    "FittedConfig",
    "MLPRegression",
    "PPOConfig",
    "PolicyCache",
    "TreesRegression",
    "TrimAggConfig",
    "TrimPOMDPConfig",
    "make_untrained",
    "rank_ensemble",
    "train_budgeted",
    "train_confidence_mixture",
    "train_constrained",
    "train_cpo",
    "train_cpo_on_rollouts",
    "train_ensemble",
    "train_exact",
    "train_fitted",
    "train_process_reward",
    "train_query_level",
    "train_trim_agg",
    "train_trim_pomdp",
]
