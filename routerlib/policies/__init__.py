"""Policies: who writes the next step. Baselines and learned ones share one method."""

from __future__ import annotations

from routerlib.policies.baselines import (
    BASELINES,
    JUDGE_BASELINES,
    AlwaysLarge,
    AlwaysSmall,
    FirstSteps,
    FirstTokenEntropy,
    JudgeScoreThreshold,
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
from routerlib.policies.trim import AggregatedRewardPolicy, BeliefPolicy

__all__ = [
    "BASELINES",
    "JUDGE_BASELINES",
    "NEVER_LARGE",
    "AggregatedRewardPolicy",
    "AlwaysLarge",
    "AlwaysSmall",
    "BeliefPolicy",
    "BudgetedPolicy",
    "ConfidenceMixturePolicy",
    "EnsemblePolicy",
    "FirstSteps",
    "FirstTokenEntropy",
    "JudgeScoreThreshold",
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
