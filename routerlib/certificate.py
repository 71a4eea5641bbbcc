"""A threshold with a guarantee: Learn then Test on the calibration problems.

``calibrate_threshold`` takes what looks best on the calibration problems, which flatters it. Here
each setting is a hypothesis "the target is missed on the problems to come", settings are tested one
after the other in an order that was fixed beforehand, and only those whose hypothesis is rejected
may be chosen (Angelopoulos, Bates, Candes, Jordan and Lei 2021, arXiv 2110.01052). With probability
at least 1 - delta over the draw of the calibration problems, *all* certified settings keep the
targets in the mean over new problems of the same source, so the best of them may be picked by
looking.

What is tested. With x the router's value on a problem, s always small's and l always large's:

- ``KeepAccuracy(q)``: the mean of q l - x is at most 0. Always large's accuracy is not known but
  measured on the same problems, so it stands inside the mean; q l - x lies in [-1, q].
- ``MaxCost(share)``: the mean of x - s - share (l - s) is at most 0. It lies between
  -max(1 - share, 0) S - share L and X + max(share - 1, 0) S for costs capped at S, L and X.
- ``MaxCost(absolute)``: the mean of x is at most the value; x lies in [0, X].

Each is moved and scaled to [0, 1], and the limit with it. Invariants: settings and their order come
from elsewhere (a fixed grid, or scores and outcomes of *training* problems), never from the
outcomes of the calibration problems; the caps come from ``cost_bounds`` or from the caller, never
from costs seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routerlib.calibrate import (
    Calibration,
    KeepAccuracy,
    MaxCost,
    Means,
    Sweep,
    Target,
    compute_achieved,
    compute_value_means,
)
from routerlib.cost_bounds import CostCaps
from routerlib.errors import CalibrationError
from routerlib.lattice import Values
from routerlib.metrics import compute_mean_estimate
from routerlib.risk_tests import (
    Bound,
    compute_p_values,
    compute_problems_needed,
    follow_sequence,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TargetLosses:
    """Losses (..., P) in [0, 1] of settings on problems: the target is kept where their mean over
    all problems to come is at most ``limit``."""

    losses: Floats
    limit: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was proved of a setting: ``p_value`` (the largest over the targets) is at most
    ``delta``, from ``n_problems`` calibration problems; ``n_certified`` of ``n_settings`` settings
    passed."""

    p_value: float
    delta: float
    n_problems: int
    bound: Bound
    n_certified: int
    n_settings: int


@dataclass(frozen=True, slots=True)
class CertifiedSetting:
    """The chosen setting, one ``Calibration`` per target, and the certificate for all at once."""

    setting: float
    calibrations: tuple[Calibration, ...]
    certificate: Certificate

    @property
    def guarantee(self) -> str:
        """What the certificate says, in one sentence."""
        promises = " and ".join(_promise(c.target) for c in self.calibrations)
        proof = self.certificate
        return (
            f"With probability at least {1.0 - proof.delta:.4g} over the draw of the "
            f"{proof.n_problems} calibration problems, {promises}, in the mean over new problems "
            "drawn from the same source."
        )


def compute_losses(
    target: Target, values: Values, small: Values, large: Values, caps: CostCaps | None = None
) -> TargetLosses:
    """Losses (..., P) of settings' values (..., P), and the limit of their mean.

    ``small`` and ``large`` are the constant routers on the same problems (P,). ValueError for a
    cost target without ``caps``; CalibrationError where the target needs no test or can never be
    shown, and when a cost is beyond the caps, which are then not this recording's.
    """
    if isinstance(target, KeepAccuracy):
        excess, low, high = target.value * large.accuracy - values.accuracy, -1.0, target.value
    else:
        if caps is None:
            raise ValueError(
                f"'{target.label}' needs the most that one problem can cost: give caps from "
                "cost_bounds.compute_cost_caps, or your own"
            )
        excess, low, high = _compute_cost_excess(target, values, small, large, caps)
    if not low < 0.0 < high:
        raise CalibrationError(
            f"'{target.label}' leaves nothing to certify: the excess of one problem over it lies "
            f"in [{low:g}, {high:g}] whatever the router does"
        )
    losses = (excess - low) / (high - low)
    if losses.min() < -1e-9 or losses.max() > 1.0 + 1e-9:
        problem = int(np.argmax(np.abs(losses - 0.5).reshape(-1, losses.shape[-1]).max(axis=0)))
        raise CalibrationError(
            f"calibration problem {problem} is outside the bounds for '{target.label}': excess "
            f"{excess[..., problem].max():.6g}, bounds [{low:.6g}, {high:.6g}]; the caps {caps} "
            "are not those of this recording"
        )
    return TargetLosses(np.clip(losses, 0.0, 1.0), -low / (high - low))


def _compute_cost_excess(
    target: MaxCost, values: Values, small: Values, large: Values, caps: CostCaps
) -> tuple[Floats, float, float]:
    """Excess of the cost over the target (..., P), and the least and the most it can be."""
    share = target.value
    if target.unit == "absolute":
        return values.cost - share, -share, caps.router - share
    excess = values.cost - (1.0 - share) * small.cost - share * large.cost
    low = -max(1.0 - share, 0.0) * caps.small - share * caps.large
    return excess, low, caps.router + max(share - 1.0, 0.0) * caps.small


def order_settings(
    training: Sweep,
    targets: Sequence[Target],
    small: Values,
    large: Values,
    caps: CostCaps | None = None,
) -> Indices:
    """Order (T,) of the settings from *training* problems: safest first.

    That is needed for an accuracy and a cost target at once, whose safe ends are opposite (split
    fixed-sequence testing, Learn then Test, section 2.3). Safe means that the mean loss is many
    standard errors below its limit, for the target where it is fewest. ``training`` has the
    settings that will be tested, its values on training problems; so do ``small`` and ``large``.
    """
    margins = []
    for target in targets:
        tested = compute_losses(target, training.values, small, large, caps)
        error = tested.losses.std(axis=-1) / np.sqrt(tested.losses.shape[-1])
        margins.append((tested.limit - tested.losses.mean(axis=-1)) / (error + 1e-12))
    return np.argsort(-np.min(margins, axis=0), kind="stable")


def certify_setting(
    sweep: Sweep,
    targets: Sequence[Target],
    small: Values,
    large: Values,
    weights: Floats,
    *,
    delta: float,
    caps: CostCaps | None = None,
    bound: Bound = "hoeffding_bentkus",
    order: Indices | None = None,
) -> CertifiedSetting:
    """Choose the best setting of a sweep (T, P) among those certified for all targets.

    Settings must run from always large to always small, and be chosen without these problems'
    outcomes. ``small`` and ``large`` (P,) are the constant routers, ``weights`` (B, P) the
    resamples of the intervals. Without ``order`` the sequence starts from the safe end: always
    large for accuracy, always small for cost; targets with opposite ends need an order from
    ``order_settings`` (ValueError). The p-value of "some target is missed" is the largest of
    theirs. Chosen is the cheapest certified setting if accuracy is a target, else the most
    accurate.

    CalibrationError when the first setting of the sequence is not certified, with the number of
    problems that would do.
    """
    tested = [compute_losses(t, sweep.values, small, large, caps) for t in targets]
    p_values = np.stack([compute_p_values(t.losses, t.limit, delta, bound) for t in tested])
    order = _choose_order(targets, len(sweep.settings)) if order is None else order
    certified = follow_sequence(p_values.max(axis=0), order, delta)
    if len(certified) == 0:
        first = int(order[0])
        worst = int(np.argmax(p_values[:, first]))
        failed = TargetLosses(tested[worst].losses[first], tested[worst].limit)
        p_value = float(p_values[worst, first])
        raise CalibrationError(
            _explain_refusal(targets[worst], failed, p_value, delta=delta, bound=bound)
        )
    means = compute_value_means(sweep.values)
    chooser = next((t for t in targets if isinstance(t, KeepAccuracy)), targets[0])
    best = chooser.choose(Means(means.accuracy[certified], means.cost[certified]))
    chosen = int(certified[best])
    point = Values(sweep.values.accuracy[chosen], sweep.values.cost[chosen])
    setting = float(sweep.settings[chosen])
    estimates = [compute_mean_estimate(v, weights) for v in (point.accuracy, point.cost)]
    return CertifiedSetting(
        setting,
        tuple(
            Calibration(t, setting, compute_achieved(t, point, small, large, weights), *estimates)
            for t in targets
        ),
        Certificate(
            float(p_values[:, chosen].max()),
            delta,
            len(point.cost),
            bound,
            len(certified),
            len(sweep.settings),
        ),
    )


def _choose_order(targets: Sequence[Target], n_settings: int) -> Indices:
    """From always large for accuracy, from always small for cost."""
    kinds = {type(target) for target in targets}
    if len(kinds) != 1:
        raise ValueError(
            f"the sequence of {len(kinds)} kinds of targets has no safe end: give targets of one "
            "kind, or an order made on training problems (order_settings)"
        )
    ascending = np.arange(n_settings)
    return ascending if kinds == {KeepAccuracy} else ascending[::-1]


def _explain_refusal(
    target: Target, tested: TargetLosses, p_value: float, *, delta: float, bound: Bound
) -> str:
    """Say why the losses (P,) of the first setting were not enough, and how many would be."""
    losses, limit = tested.losses, tested.limit
    least = compute_problems_needed(np.zeros(1), limit, delta, bound)
    enough = compute_problems_needed(losses, limit, delta, bound)
    fewer = compute_problems_needed(losses, limit, delta, "betting")
    if enough is None or fewer is None:
        advice = "these miss the target themselves, so more would not help: relax it"
    else:
        enough = max(enough, len(losses) + 1)  # what is about right may be what was not enough
        advice = f"about {enough} like these would do, and fewer than {least} never can"
        if bound != "betting" and fewer < enough:
            advice += f"; about {fewer} with the bound 'betting', which sees how little they spread"
    return (
        f"'{target.label}' cannot be certified at delta = {delta:g}: the first setting of the "
        f"sequence has p = {p_value:.3g} on {len(losses)} calibration problems; {advice}"
    )


def _promise(target: Target) -> str:
    if isinstance(target, KeepAccuracy):
        return f"the accuracy is at least {target.value:.4g} of always large's"
    if target.unit == "absolute":
        return f"the cost of a problem is at most {target.value:g}"
    return (
        f"the cost is at most {target.value:.4g} of the way from always small's to always large's"
    )
