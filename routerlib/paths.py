"""Where things are, relative to the repository's root. Nothing here touches the disk."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT / "traces"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
FIXTURE_TRACES = ROOT / "tests" / "data" / "traces"


def get_cache_dir() -> Path:
    """Return the folder of weights and engines: ``ROUTERLIB_CACHE``, or a folder in the user's
    cache."""
    configured = os.environ.get("ROUTERLIB_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "routerlib"


def get_data_dir() -> Path | None:
    """Return the folder of benchmark files named by ``ROUTERLIB_DATA``, or None."""
    configured = os.environ.get("ROUTERLIB_DATA")
    return Path(configured) if configured else None
