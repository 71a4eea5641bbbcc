"""Stepwise routing between language models, recorded once and replayed exactly."""

from __future__ import annotations

__version__ = "0.1.0"
