"""Certified settings of several routers as one tidy frame.

Invariant: the settings to test come from the training problems' scores, the certificates from the
calibration problems, and nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from routerlib import metrics
from routerlib.calibrate import Target
from routerlib.certificate import certify_setting
from routerlib.cost_bounds import TokenCaps, compute_cost_caps
from routerlib.costs import Lens
from routerlib.errors import CalibrationError
from routerlib.evaluate.routers import compute_settings, compute_sweep, evaluate_ends
from routerlib.features import check_protocol
from routerlib.lattice import Lattice
from routerlib.policies import Policy
from routerlib.risk_tests import Bound


def list_certificates(
    policies: Mapping[str, Policy],
    training: Lattice,
    calibration: Lattice,
    lens: Lens,
    *,
    targets: Sequence[Target],
    token_caps: TokenCaps,
    generator: np.random.Generator,
    delta: float = 0.1,
    bound: Bound = "hoeffding_bentkus",
    n_resamples: int = 2000,
    max_thresholds: int = 100,
) -> pd.DataFrame:
    """One row per router and target, for policies with a setting.

    ``setting``, ``p_value``, ``value`` achieved with ``low`` and ``high`` on ``n`` calibration
    problems, ``accuracy``, ``cost``; ``refused`` is None, or says why nothing was certified, and
    then the numbers are NaN.
    """
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(calibration.n_problems, n_resamples, generator)
    )
    ends = evaluate_ends(calibration, lens)
    rows = []
    for name, policy in policies.items():
        settings = compute_settings(policy, training, max_thresholds)
        sweep = compute_sweep(policy, calibration, lens, settings)
        caps = compute_cost_caps(token_caps, training.depth, lens, check_protocol(policy.protocol))
        for target in targets:
            row: dict[str, object] = {
                "router": name,
                "protocol": policy.protocol,
                "target": target.label,
                "bound": bound,
                "delta": delta,
                "n": calibration.n_problems,
                "refused": None,
            }
            try:
                found = certify_setting(
                    sweep, [target], *ends, weights, delta=delta, caps=caps, bound=bound
                )
            except CalibrationError as error:
                rows.append(row | {"refused": str(error)})
                continue
            (chosen,) = found.calibrations
            rows.append(
                row
                | {"setting": found.setting, "p_value": found.certificate.p_value}
                | {"value": chosen.achieved.value}
                | {"low": chosen.achieved.low, "high": chosen.achieved.high}
                | {"accuracy": chosen.accuracy.value, "cost": chosen.cost.value}
            )
    numbers = ["setting", "p_value", "value", "low", "high", "accuracy", "cost"]
    fixed = ["router", "protocol", "target", "bound", "delta", "n", "refused"]
    return pd.DataFrame(rows, columns=[*fixed, *numbers])
