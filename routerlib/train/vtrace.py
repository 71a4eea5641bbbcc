"""V-trace (Espeholt et al. 2018, IMPALA, arXiv 1802.01561, section 4): values and advantages of one
policy from the steps of another.

Pure functions of arrays; time runs along the last axis and a rollout that has ended is followed by
steps that are not ``taken``, which are worth 0. Episodes are short, so gamma is 1 unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class VTrace:
    """``targets`` (..., T): v_s of eq. 1, what the critic should say; ``advantages`` (..., T):
    r_s + gamma v_{s+1} - V(x_s) of the policy gradient (section 4.2), without its factor rho_s;
    ``rho`` (..., T): that factor, the clipped ratio. All are 0 where no step was taken."""

    targets: Floats
    advantages: Floats
    rho: Floats


def compute_vtrace(
    rewards: Floats,
    values: Floats,
    ratios: Floats,
    taken: NDArray[np.bool_],
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    gamma: float = 1.0,
) -> VTrace:
    """V-trace of rollouts: all arguments are (..., T).

    ``values`` are the critic's V(x_s), ``ratios`` pi(a_s | x_s) / mu(a_s | x_s) of the policy
    pi over the behaviour policy mu that took the steps. ``rho_bar`` (with ``c_bar <= rho_bar``)
    decides towards which policy's value the targets go, ``c_bar`` how fast:

        v_s = V(x_s) + sum_{t >= s} gamma^(t-s) (c_s ... c_{t-1}) delta_t          (eq. 1)
        delta_t = rho_t (r_t + gamma V(x_{t+1}) - V(x_t))
        rho_t = min(rho_bar, ratio_t),  c_t = min(c_bar, ratio_t)

    computed backwards (remark 1): v_s = V(x_s) + delta_s + gamma c_s (v_{s+1} - V(x_{s+1})).

    >>> on_policy = compute_vtrace(
    ...     rewards=np.array([0.0, 1.0]), values=np.array([0.2, 0.6]), ratios=np.ones(2),
    ...     taken=np.ones(2, dtype=bool),
    ... )
    >>> on_policy.targets.tolist(), on_policy.advantages.round(1).tolist()
    ([1.0, 1.0], [0.8, 0.4])
    """
    if not rho_bar >= c_bar > 0.0:
        raise ValueError(f"rho_bar is {rho_bar} and c_bar {c_bar}; give rho_bar >= c_bar > 0")
    rho = np.where(taken, np.minimum(rho_bar, ratios), 0.0)
    c = np.where(taken, np.minimum(c_bar, ratios), 0.0)
    known = np.where(taken, values, 0.0)
    gained = np.where(taken, rewards, 0.0)
    next_known = np.concatenate((known[..., 1:], np.zeros_like(known[..., :1])), axis=-1)
    delta = rho * (gained + gamma * next_known - known)
    targets, next_targets = np.zeros_like(known), np.zeros_like(known)
    beyond = np.zeros(known.shape[:-1])  # v_{s+1} - V(x_{s+1})
    for s in reversed(range(known.shape[-1])):
        next_targets[..., s] = next_known[..., s] + beyond
        beyond = delta[..., s] + gamma * c[..., s] * beyond
        targets[..., s] = known[..., s] + beyond
    advantages = np.where(taken, gained + gamma * next_targets - known, 0.0)
    return VTrace(targets, advantages, rho)
