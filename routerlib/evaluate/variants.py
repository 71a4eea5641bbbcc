"""Variants of one router side by side: what a trainer, a feature set, a depth or a price changes.

Each variant is a policy with the problems and the lens it is judged by. Its points are chosen on
its calibration problems and its number is measured on its test problems; invariants: all variants
of one test set share the resamples, so differences are paired; the policies of single seeds are
calibrated one by one, as if each were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from routerlib.calibrate import choose_curve_settings
from routerlib.costs import Lens
from routerlib.evaluate.comparison import Comparison, Measure, compare_on, judge
from routerlib.evaluate.points import Row, make_row
from routerlib.evaluate.routers import compute_settings, compute_sweep
from routerlib.lattice import Lattice
from routerlib.metrics import drop_rounding
from routerlib.policies import Policy

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One level of one factor: ``policy`` chosen on ``calibration`` and judged on ``test``.

    ``seeds`` are the policies that training with one seed each gave; the difference is taken to
    the variant of the same factor whose level is ``reference`` (None: to none).
    """

    factor: str
    level: str
    policy: Policy
    calibration: Lattice
    test: Lattice
    lens: Lens
    seeds: tuple[Policy, ...] = ()
    reference: str | None = None


def evaluate_variants(
    variants: Sequence[Variant], *, seed: int = 0, n_resamples: int = 2000
) -> pd.DataFrame:
    """Area over the chord of each variant on its test problems.

    One row each: factor, level, protocol, lens; value, low, high, n; seed_low, seed_mean,
    seed_high and n_seeds of the policies of single seeds; difference, difference_low,
    difference_high and verdict against the reference, paired by problem. The verdict is "reference"
    for the reference itself, and "not compared" where there is none or it has other test problems
    or another lens. KeyError for a reference that is not among the factor's levels.
    """
    comparisons: dict[tuple[object, ...], Comparison] = {}
    measured: list[tuple[Comparison, Measure]] = []
    rows: list[Row] = []
    for variant in variants:
        # Modes leave the two constant routers as they are: one comparison serves all of them.
        key = variant.test.problem_ids, variant.lens.name, variant.lens.weights.tobytes()
        if key not in comparisons:
            generator = np.random.default_rng(seed)
            comparisons[key] = compare_on(variant.test, variant.lens, generator, n_resamples)
        comparison = comparisons[key]
        measure = _measure(variant.policy, variant, comparison)
        measured.append((comparison, measure))
        alone = [
            drop_rounding(_measure(policy, variant, comparison).value) for policy in variant.seeds
        ]
        rows.append(
            {
                "factor": variant.factor,
                "level": variant.level,
                "protocol": variant.policy.protocol,
                "lens": variant.lens.name,
            }
            | make_row(comparison.estimate(measure))
            | {
                "seed_low": min(alone, default=np.nan),
                "seed_mean": float(np.mean(alone)) if alone else np.nan,
                "seed_high": max(alone, default=np.nan),
                "n_seeds": len(alone),
                "difference": np.nan,
                "difference_low": np.nan,
                "difference_high": np.nan,
            }
        )
    place = {(variant.factor, variant.level): i for i, variant in enumerate(variants)}
    for row, variant, (comparison, measure) in zip(rows, variants, measured, strict=True):
        row["verdict"] = "not compared"
        if variant.reference is None:
            continue
        if (variant.factor, variant.reference) not in place:
            raise KeyError(f"factor {variant.factor!r} has no level {variant.reference!r}")
        whose, theirs = measured[place[variant.factor, variant.reference]]
        if theirs is measure:
            row["verdict"] = "reference"
        elif whose is comparison:
            gap = comparison.estimate(
                Measure(measure.value - theirs.value, measure.replicates - theirs.replicates)
            )
            row["difference"], row["verdict"] = gap.value, judge(gap)
            row["difference_low"], row["difference_high"] = gap.low, gap.high
    return pd.DataFrame(rows)


def _measure(policy: Policy, variant: Variant, comparison: Comparison) -> Measure:
    """Area over the chord along the settings that the calibration problems choose."""
    tried = compute_settings(policy, variant.calibration)
    settings = choose_curve_settings(
        compute_sweep(policy, variant.calibration, variant.lens, tried)
    )
    curve = compute_sweep(policy, variant.test, variant.lens, settings).values
    return comparison.measure_curve(curve)["area_over_chord"]
