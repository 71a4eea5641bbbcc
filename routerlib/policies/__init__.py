"""Policies: who writes the next step. Baselines and learned ones share one method."""

from __future__ import annotations

from routerlib.policies.baselines import (
    BASELINES,
    AlwaysLarge,
    AlwaysSmall,
    FirstSteps,
    FirstTokenEntropy,
    LastSteps,
    MeanLogprobThreshold,
    MinLogprobThreshold,
    ProblemLength,
    RandomPolicy,
)
from routerlib.policies.budgeted import BudgetedPolicy
from routerlib.policies.files import load_policy, save_policy
from routerlib.policies.mixture import ConfidenceMixturePolicy
from routerlib.policies.network import EnsemblePolicy, MLPPolicy
from routerlib.policies.process_reward import ProcessRewardPolicy
from routerlib.policies.protocol import NEVER_LARGE, Policy, SweptPolicy, decide
from routerlib.policies.query_level import QueryLevelPolicy
from routerlib.policies.ranking import RankedPolicy, rank_policy
from routerlib.policies.trees import TreesPolicy

__all__ = [
    "BASELINES",
    "NEVER_LARGE",
    "AlwaysLarge",
    "AlwaysSmall",
    "BudgetedPolicy",
    "ConfidenceMixturePolicy",
    "EnsemblePolicy",
    "FirstSteps",
    "FirstTokenEntropy",
    "LastSteps",
    "MLPPolicy",
    "MeanLogprobThreshold",
    "MinLogprobThreshold",
    "Policy",
    "ProblemLength",
    "ProcessRewardPolicy",
    "QueryLevelPolicy",
    "RandomPolicy",
    "RankedPolicy",
    "SweptPolicy",
    "TreesPolicy",
    "decide",
    "load_policy",
    "rank_policy",
    "save_policy",
]
