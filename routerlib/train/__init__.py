"""Training of policies on recorded lattices."""

from __future__ import annotations

from routerlib.train.exact import ExactConfig, train_ensemble, train_exact

__all__ = ["ExactConfig", "train_ensemble", "train_exact"]
