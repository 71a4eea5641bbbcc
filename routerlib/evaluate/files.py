"""Calibrated routers to a folder and back, so that one notebook calibrates and the next evaluates.

The folder holds ``routers.json`` (settings, targets, what was achieved) and one policy file for
each learned router. Invariant: a router read back has the same settings, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from routerlib.calibrate import Calibration, KeepAccuracy, MaxCost, Target
from routerlib.evaluate.routers import CalibratedRouter
from routerlib.metrics import Estimate
from routerlib.policies import BASELINES, JUDGE_BASELINES, Policy, load_policy, save_policy

UNTRAINED = BASELINES | JUDGE_BASELINES

TARGETS: dict[str, type[MaxCost] | type[KeepAccuracy]] = {
    "max_cost": MaxCost,
    "keep_accuracy": KeepAccuracy,
}


def save_routers(routers: Mapping[str, CalibratedRouter], folder: Path) -> Path:
    """Write calibrated routers and return the path of their ``routers.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = {name: _pack(name, router, folder) for name, router in routers.items()}
    path = folder / "routers.json"
    path.write_text(json.dumps(packed, indent=1) + "\n", encoding="utf-8")
    return path


def load_routers(folder: Path) -> dict[str, CalibratedRouter]:
    """Read what ``save_routers`` wrote. FileNotFoundError when nothing is there."""
    packed = json.loads((folder / "routers.json").read_text(encoding="utf-8"))
    return {name: _unpack(name, content, folder) for name, content in packed.items()}


def _pack(name: str, router: CalibratedRouter, folder: Path) -> dict[str, Any]:
    file_name = None
    if router.policy != UNTRAINED.get(name):
        file_name = "".join(c if c.isalnum() else "-" for c in name).strip("-") + ".pt"
        save_policy(router.policy, folder / file_name)
    return {
        "policy_file": file_name,
        "calibrations": [
            asdict(calibration) | {"target": _pack_target(calibration.target)}
            for calibration in router.calibrations
        ],
        "refusals": [[_pack_target(target), message] for target, message in router.refusals],
        "curve_settings": router.curve_settings.tolist(),
    }


def _unpack(name: str, content: dict[str, Any], folder: Path) -> CalibratedRouter:
    file_name = content["policy_file"]
    policy: Policy = UNTRAINED[name] if file_name is None else load_policy(folder / file_name)
    calibrations = tuple(
        Calibration(
            target=_unpack_target(saved["target"]),
            setting=saved["setting"],
            **{key: Estimate(**saved[key]) for key in ("achieved", "accuracy", "cost")},
        )
        for saved in content["calibrations"]
    )
    refusals = tuple((_unpack_target(target), text) for target, text in content["refusals"])
    settings = np.array(content["curve_settings"], dtype=np.float64)
    return CalibratedRouter(policy, calibrations, refusals, settings)


def _pack_target(target: Target) -> dict[str, Any]:
    kind = next(kind for kind, cls in TARGETS.items() if isinstance(target, cls))
    return {"kind": kind} | asdict(target)


def _unpack_target(packed: dict[str, Any]) -> Target:
    fields = {key: value for key, value in packed.items() if key != "kind"}
    return TARGETS[packed["kind"]](**fields)
