"""How often a target is missed on problems that did not choose the setting, by re-splitting.

The recorded calibration and test problems are shuffled and cut into halves again and again; on one
half a setting is chosen, with and without a certificate, and on the other it is looked up whether
the target is kept. Invariants: the settings to choose from come from the training problems' scores;
nothing found here is used by any router, it only shows how the two ways of choosing behave.

Two things to keep in mind when reading it. A certificate is about the mean over all problems to
come, but the other half is itself a sample: a setting exactly at its limit is "missed" in half of
all re-splits although it keeps its promise. And the re-splits share their problems, so their number
does not make them independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from routerlib.calibrate import Sweep, Target, calibrate_threshold, compute_value_means
from routerlib.certificate import certify_setting
from routerlib.cost_bounds import CostCaps, TokenCaps, compute_cost_caps
from routerlib.costs import Lens
from routerlib.errors import CalibrationError
from routerlib.evaluate.routers import compute_settings, compute_sweep, evaluate_ends
from routerlib.features import check_protocol
from routerlib.lattice import Lattice, Values
from routerlib.metrics import compute_wilson_interval
from routerlib.policies import Policy
from routerlib.risk_tests import BOUNDS

Indices = NDArray[np.int64]

# How a setting is chosen: the best that meets the target on the half, or with a certificate.
METHODS = ("picked", *BOUNDS)


def evaluate_resplits(
    policies: Mapping[str, Policy],
    training: Lattice,
    halves: tuple[Lattice, Lattice],
    lens: Lens,
    *,
    targets: Sequence[Target],
    token_caps: TokenCaps,
    generator: np.random.Generator,
    delta: float = 0.1,
    n_splits: int = 100,
    max_thresholds: int = 100,
) -> pd.DataFrame:
    """Miss rates of policies with a setting, over re-splits of two lattices' problems.

    One row per router, target and method: ``missed`` is the share of re-splits in which the target
    was missed on the other half (refusals count as not missed), with a 95% Wilson interval ``low``
    to ``high`` of these draws; ``refused`` the share in which no setting was chosen; ``accuracy``
    and ``cost_share`` the means on the other half where one was. All routers and methods share the
    re-splits. Policies need settings: constants have none.
    """
    ends = [_join([evaluate_ends(half, lens)[i] for half in halves]) for i in (0, 1)]
    n_problems = ends[0].cost.shape[-1]
    splits = [generator.permutation(n_problems) for _ in range(n_splits)]
    rows = []
    for name, policy in policies.items():
        settings = compute_settings(policy, training, max_thresholds)
        values = _join([compute_sweep(policy, half, lens, settings).values for half in halves])
        caps = compute_cost_caps(token_caps, training.depth, lens, check_protocol(policy.protocol))
        for target, method in product(targets, METHODS):
            outcomes = [
                _try_split(
                    Sweep(settings, values),
                    ends,
                    split,
                    target=target,
                    method=method,
                    caps=caps,
                    delta=delta,
                )
                for split in splits
            ]
            fixed: dict[str, object] = {
                "router": name,
                "target": target.label,
                "target_kind": type(target).__name__,
                "asked": target.value,
                "method": method,
                "delta": delta,
            }
            rows.append(fixed | _summarise(outcomes))
    return pd.DataFrame(rows)


def _try_split(
    sweep: Sweep,
    ends: Sequence[Values],
    split: Indices,
    *,
    target: Target,
    method: str,
    caps: CostCaps,
    delta: float,
) -> tuple[bool, float, float] | None:
    """Whether the target is missed on the second half, with accuracy and cost share there; None for
    a refusal."""
    first, second = np.array_split(split, 2)
    here, there = Sweep(sweep.settings, _take(sweep.values, first)), _take(sweep.values, second)
    small, large = (_take(end, first) for end in ends)
    weights = np.full((1, len(first)), 1.0 / len(first))  # no interval is wanted
    try:
        if method == "picked":
            setting = calibrate_threshold(here, target, small, large, weights).setting
        else:
            bound = next(bound for bound in BOUNDS if bound == method)
            setting = certify_setting(
                here, [target], small, large, weights, delta=delta, caps=caps, bound=bound
            ).setting
    except CalibrationError:
        return None
    chosen = int(np.flatnonzero(sweep.settings == setting)[0])
    point = compute_value_means(there.at(chosen))
    cheap, dear = (compute_value_means(_take(end, second)) for end in ends)
    is_met = bool(target.is_met(target.measure(point, cheap, dear)))
    share = float((point.cost - cheap.cost) / (dear.cost - cheap.cost))
    return not is_met, float(point.accuracy), share


def _summarise(outcomes: Sequence[tuple[bool, float, float] | None]) -> dict[str, object]:
    chosen = [outcome for outcome in outcomes if outcome is not None]
    n_missed, n_splits = sum(outcome[0] for outcome in chosen), len(outcomes)
    low, high = compute_wilson_interval(np.array(float(n_missed)), np.array(float(n_splits)))
    accuracy, share = np.mean([o[1:] for o in chosen], axis=0) if chosen else (np.nan, np.nan)
    return {
        "missed": n_missed / n_splits,
        "low": float(low),
        "high": float(high),
        "refused": 1.0 - len(chosen) / n_splits,
        "accuracy": float(accuracy),
        "cost_share": float(share),
        "n_splits": n_splits,
    }


def _take(values: Values, problems: Indices) -> Values:
    return Values(values.accuracy[..., problems], values.cost[..., problems])


def _join(parts: Sequence[Values]) -> Values:
    """Values (..., P + Q) of two sets of problems."""
    return Values(
        np.concatenate([part.accuracy for part in parts], axis=-1),
        np.concatenate([part.cost for part in parts], axis=-1),
    )
