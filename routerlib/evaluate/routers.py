"""Routers on lattices: sweeping a policy's setting, and choosing it on calibration problems.

A *setting* is what tunes a policy after training: a threshold, or what a ``SweptPolicy`` has in its
place, as the p of a coin. Invariants: settings run from always large to always small;
``calibrate_router`` is given the calibration lattice only and returns settings, which
``evaluate_routers`` applies elsewhere without another look; always small and always large are
billed under protocol ``before``, for nobody probes who never asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routerlib import metrics
from routerlib.calibrate import (
    Calibration,
    Sweep,
    Target,
    calibrate_threshold,
    choose_curve_settings,
    compute_thresholds,
)
from routerlib.costs import Lens
from routerlib.errors import CalibrationError
from routerlib.features import check_protocol
from routerlib.lattice import Lattice, Values, evaluate_probabilities, follow_thresholds
from routerlib.policies import AlwaysLarge, AlwaysSmall, Policy, SweptPolicy

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedRouter:
    """A policy with what the calibration problems chose for it.

    ``calibrations`` holds one entry per target that could be met and ``refusals`` the message for
    each that could not; ``curve_settings`` (V,) runs from cheap to dear.
    """

    policy: Policy
    calibrations: tuple[Calibration, ...]
    refusals: tuple[tuple[Target, str], ...]
    curve_settings: Floats


def compute_settings(policy: Policy, lattice: Lattice, maximum: int = 1000) -> Floats:
    """Settings (T,) to try: nothing for a constant policy, a swept policy's own, else at most
    ``maximum`` thresholds."""
    if isinstance(policy, SweptPolicy):
        return policy.settings
    if isinstance(policy, AlwaysSmall | AlwaysLarge):
        return np.zeros(0)
    observations = lattice.observe(check_protocol(policy.protocol))
    return compute_thresholds(policy.probabilities(observations)[:, 1], maximum)


def compute_sweep(policy: Policy, lattice: Lattice, lens: Lens, settings: Floats) -> Sweep:
    """Values (T, P) of a policy at the settings (T,) on any two-model lattice."""
    protocol = check_protocol(policy.protocol)
    observations = lattice.observe(protocol)
    if isinstance(policy, SweptPolicy):
        tried = (policy.with_setting(float(setting)) for setting in settings)
        rows = [
            evaluate_probabilities(lattice, one.probabilities(observations), lens, protocol)
            for one in tried
        ]
        usage = np.stack([row.usage for row in rows if row.usage is not None])
        accuracy, cost = (np.stack([getattr(r, k) for r in rows]) for k in ("accuracy", "cost"))
        return Sweep(settings, Values(accuracy, cost, usage))
    scores = policy.probabilities(observations)[:, 1]
    return Sweep(settings, follow_thresholds(lattice, scores, settings, lens, protocol))


def evaluate_ends(lattice: Lattice, lens: Lens) -> tuple[Values, Values]:
    """Values (P,) of always small and always large."""
    seen = lattice.observe("before")
    small, large = (
        evaluate_probabilities(lattice, policy.probabilities(seen), lens, "before")
        for policy in (AlwaysSmall(), AlwaysLarge())
    )
    return small, large


def calibrate_router(
    policy: Policy,
    calibration: Lattice,
    lens: Lens,
    targets: Sequence[Target],
    generator: np.random.Generator,
    *,
    n_resamples: int = 2000,
    max_thresholds: int = 1000,
) -> CalibratedRouter:
    """Choose a router's settings for each target, and its curve, on calibration problems."""
    settings = compute_settings(policy, calibration, max_thresholds)
    if len(settings) == 0:
        return CalibratedRouter(policy, (), (), settings)
    sweep = compute_sweep(policy, calibration, lens, settings)
    small, large = evaluate_ends(calibration, lens)
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(calibration.n_problems, n_resamples, generator)
    )
    chosen: list[Calibration] = []
    refused: list[tuple[Target, str]] = []
    for target in targets:
        try:
            chosen.append(calibrate_threshold(sweep, target, small, large, weights))
        except CalibrationError as error:
            refused.append((target, str(error)))
    return CalibratedRouter(policy, tuple(chosen), tuple(refused), choose_curve_settings(sweep))
