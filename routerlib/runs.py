"""The row of a run: what was asked for, of which models, where and with what it was recorded.

Invariant: a run's configuration holds all that it was started with, and never a key.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from routerlib import __version__
from routerlib.models.capabilities import Capabilities
from routerlib.records import Run, compute_id


def begin_run(
    plan: str,
    settings: Mapping[str, Any],
    model_ids: Sequence[str],
    benchmark: str,
    split: str,
    *,
    capabilities: Mapping[str, Capabilities] | None = None,
) -> Run:
    """Return the row of a run that starts now, with what its models were found to be able to do,
    by their ids."""
    now = datetime.now(UTC)
    content = dict(settings) | {"models": list(model_ids), "benchmark": benchmark, "split": split}
    if capabilities:
        content["capabilities"] = {name: asdict(found) for name, found in capabilities.items()}
    configuration = json.dumps(content, sort_keys=True)
    libraries = ("openai", "pyarrow", "math-verify")
    versions = {name: metadata.version(name) for name in libraries} | {"routerlib": __version__}
    return Run(
        id=compute_id("run", now.isoformat(timespec="microseconds"), configuration, os.getpid()),
        started_at=now.isoformat(timespec="seconds"),
        ended_at=None,
        configuration=configuration,
        code_version=__version__,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        library_versions=json.dumps(versions, sort_keys=True),
        plan=plan,
    )


def end_run(run: Run, spent_usd: float | None) -> Run:
    """Return the row of a run that ends now; ``spent_usd`` is None where nobody knows."""
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(run, ended_at=ended_at, spent_usd=spent_usd)
