"""Learned policies to one ``.pt`` file and back.

Invariants: the file holds tensors, numbers and strings only and is read with ``weights_only``, so
that a policy from elsewhere cannot run code; feature names travel with the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from routerlib.features import Standardiser
from routerlib.policies.budgeted import BudgetedPolicy
from routerlib.policies.mixture import ConfidenceMixturePolicy
from routerlib.policies.network import EnsemblePolicy, MLPPolicy, build_network
from routerlib.policies.process_reward import ProcessRewardPolicy
from routerlib.policies.protocol import Policy
from routerlib.policies.query_level import QueryLevelPolicy
from routerlib.policies.ranking import RankedPolicy
from routerlib.policies.trees import Trees, TreesPolicy
from routerlib.policies.trim import AggregatedRewardPolicy, BeliefPolicy

FORMAT = 1
BELIEF_ARRAYS = ("path_edges", "reward_edges", "advantage")
TREE_ARRAYS = ("roots", "feature", "threshold", "nan_goes_left", "left", "right", "value")
_LOGISTIC: dict[str, type[QueryLevelPolicy] | type[ProcessRewardPolicy]] = {
    "query_level": QueryLevelPolicy,
    "process_reward": ProcessRewardPolicy,
}


def save_policy(policy: Policy, path: Path) -> None:
    """Write a learned policy: MLPPolicy, BudgetedPolicy, TreesPolicy, QueryLevelPolicy,
    ProcessRewardPolicy, ConfidenceMixturePolicy, AggregatedRewardPolicy, BeliefPolicy, or an
    EnsemblePolicy or RankedPolicy of such. TypeError for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": FORMAT, "policy": _pack(policy)}, path)


def load_policy(path: Path) -> Policy:
    """Read what ``save_policy`` wrote. ValueError when the file is of another kind."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} is not a policy file of format {FORMAT} (found {found}); train it again"
        )
    return _unpack(content["policy"])


def _pack(policy: Policy) -> dict[str, Any]:
    if isinstance(policy, MLPPolicy | BudgetedPolicy):
        return _pack_network(policy)
    if isinstance(policy, EnsemblePolicy):
        return {
            "kind": "ensemble",
            "name": policy.name,
            "average": policy.average,
            "members": [_pack(member) for member in policy.members],
        }
    if isinstance(policy, RankedPolicy):
        return {
            "kind": "ranked",
            "inner": _pack(policy.inner),
            "log_odds": torch.from_numpy(policy.log_odds),
            "ranks": torch.from_numpy(policy.ranks),
        }
    if isinstance(policy, AggregatedRewardPolicy):
        return {
            "kind": "aggregated_reward",
            "reward": _pack(policy.reward),
            "network": _pack(policy.network),
        }
    if isinstance(policy, BeliefPolicy):
        return {
            "kind": "belief",
            "reward": _pack(policy.reward),
            **{name: torch.from_numpy(getattr(policy, name)) for name in BELIEF_ARRAYS},
            "temperature": policy.temperature,
            "name": policy.name,
            "protocol": policy.protocol,
            "config": dict(policy.config),
        }
    return _pack_single(policy)


def _pack_single(policy: Policy) -> dict[str, Any]:
    if isinstance(policy, QueryLevelPolicy | ProcessRewardPolicy):
        return {
            "kind": "query_level" if isinstance(policy, QueryLevelPolicy) else "process_reward",
            "name": policy.name,
            "protocol": policy.protocol,
            "features": list(policy.standardiser.names),
            "mean": torch.from_numpy(policy.standardiser.mean),
            "scale": torch.from_numpy(policy.standardiser.scale),
            "coefficients": torch.from_numpy(policy.coefficients),
            "intercept": policy.intercept,
            "config": dict(policy.config),
        }
    if isinstance(policy, ConfidenceMixturePolicy):
        return {
            "kind": "confidence_mixture",
            "name": policy.name,
            "protocol": policy.protocol,
            "shares": torch.from_numpy(policy.shares),
            "means": torch.from_numpy(policy.means),
            "variances": torch.from_numpy(policy.variances),
            "config": dict(policy.config),
        }
    if isinstance(policy, TreesPolicy):
        return {
            "kind": "trees",
            "name": policy.name,
            "protocol": policy.protocol,
            "features": list(policy.features),
            "trees": {name: torch.from_numpy(getattr(policy.trees, name)) for name in TREE_ARRAYS},
            "depth": policy.trees.depth,
            "baseline": policy.baseline,
            "temperature": policy.temperature,
            "config": dict(policy.config),
        }
    raise TypeError(f"{policy.name}: a {type(policy).__name__} has nothing learnt to save")


def _pack_network(policy: MLPPolicy | BudgetedPolicy) -> dict[str, Any]:
    packed = {
        "kind": "mlp",
        "name": policy.name,
        "protocol": policy.protocol,
        "features": list(policy.standardiser.names),
        "mean": torch.from_numpy(policy.standardiser.mean),
        "scale": torch.from_numpy(policy.standardiser.scale),
        "width": policy.width,
        "activation": policy.activation,
        "weights": dict(policy.network.state_dict()),
        "config": dict(policy.config),
    }
    if isinstance(policy, BudgetedPolicy):
        packed |= {"kind": "budgeted", "budget": policy.budget}
    return packed


def _unpack(packed: dict[str, Any]) -> Policy:
    if packed["kind"] == "ensemble":
        members = tuple(_unpack(member) for member in packed["members"])
        return EnsemblePolicy(packed["name"], members, packed["average"])
    if packed["kind"] == "ranked":
        return RankedPolicy(
            _unpack(packed["inner"]), packed["log_odds"].numpy(), packed["ranks"].numpy()
        )
    if packed["kind"] in {"aggregated_reward", "belief"}:
        return _unpack_trim(packed)
    return _unpack_single(packed)


def _unpack_single(packed: dict[str, Any]) -> Policy:
    if packed["kind"] == "confidence_mixture":
        return ConfidenceMixturePolicy(
            *(packed[key].numpy() for key in ("shares", "means", "variances")),
            *(packed[key] for key in ("name", "protocol", "config")),
        )
    if packed["kind"] == "trees":
        arrays = {name: np.asarray(packed["trees"][name].numpy()) for name in TREE_ARRAYS}
        return TreesPolicy(
            packed["name"],
            packed["protocol"],
            tuple(packed["features"]),
            Trees(**arrays, depth=packed["depth"]),
            *(packed[key] for key in ("baseline", "temperature", "config")),
        )
    standardiser = Standardiser(
        tuple(packed["features"]), packed["mean"].numpy(), packed["scale"].numpy()
    )
    if packed["kind"] in _LOGISTIC:
        return _LOGISTIC[packed["kind"]](
            standardiser,
            packed["coefficients"].numpy(),
            packed["intercept"],
            packed["name"],
            packed["protocol"],
            packed["config"],
        )
    return _unpack_network(packed, standardiser)


def _unpack_network(
    packed: dict[str, Any], standardiser: Standardiser
) -> MLPPolicy | BudgetedPolicy:
    n_inputs = packed["weights"]["0.weight"].shape[1]
    n_models = packed["weights"]["4.bias"].shape[0]
    width, activation = packed["width"], packed["activation"]
    network = build_network(n_inputs, n_models, width, activation, torch.Generator())
    network.load_state_dict(packed["weights"])
    name, protocol, config = packed["name"], packed["protocol"], packed["config"]
    if packed["kind"] == "mlp":
        return MLPPolicy(name, protocol, standardiser, network, width, activation, config)
    budget = packed["budget"]
    return BudgetedPolicy(name, protocol, standardiser, network, width, activation, config, budget)


def _unpack_trim(packed: dict[str, Any]) -> AggregatedRewardPolicy | BeliefPolicy:
    reward = _unpack(packed["reward"])
    if not isinstance(reward, ProcessRewardPolicy):
        raise ValueError(f"{reward.name} is a {type(reward).__name__}, no process reward model")
    if packed["kind"] == "belief":
        return BeliefPolicy(
            reward,
            *(packed[name].numpy() for name in BELIEF_ARRAYS),
            *(packed[key] for key in ("temperature", "name", "protocol", "config")),
        )
    network = _unpack(packed["network"])
    if not isinstance(network, MLPPolicy):
        raise ValueError(f"{network.name} is a {type(network).__name__}, no network")
    return AggregatedRewardPolicy(reward, network)
