"""Calibrate routers on one lattice, evaluate them on another, as tidy frames."""

from __future__ import annotations

from routerlib.evaluate.ablations import AblationStudy, compute_hindsight_areas
from routerlib.evaluate.certified import list_certificates
from routerlib.evaluate.comparison import INDISTINGUISHABLE, judge
from routerlib.evaluate.files import load_routers, save_routers
from routerlib.evaluate.frames import RESULT_COLUMNS, Evaluation, evaluate_routers
from routerlib.evaluate.reliability import evaluate_reliability
from routerlib.evaluate.resplits import evaluate_resplits
from routerlib.evaluate.routers import (
    CalibratedRouter,
    calibrate_router,
    compute_settings,
    compute_sweep,
    evaluate_ends,
)
from routerlib.evaluate.variants import Variant, evaluate_variants

__all__ = [
    "INDISTINGUISHABLE",
    "RESULT_COLUMNS",
    "AblationStudy",
    "CalibratedRouter",
    "Evaluation",
    "Variant",
    "calibrate_router",
    "compute_hindsight_areas",
    "compute_settings",
    "compute_sweep",
    "evaluate_ends",
    "evaluate_reliability",
    "evaluate_resplits",
    "evaluate_routers",
    "evaluate_variants",
    "judge",
    "list_certificates",
    "load_routers",
    "save_routers",
]
