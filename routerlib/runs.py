"""The row of a run: what was asked for, of which models, where and with what it was recorded, and
what it cost.

Invariants: a run's configuration holds all that it was started with (one that came to no recording:
its models, problems and prompt), and never a key; what was paid stands in one row.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from routerlib import __version__
from routerlib.models.capabilities import Capabilities
from routerlib.models.spending import SpendingCap
from routerlib.records import Run, compute_id


def begin_run(
    plan: str,
    settings: Mapping[str, Any],
    model_ids: Sequence[str],
    benchmark: str,
    split: str,
    *,
    capabilities: Mapping[str, Capabilities] | None = None,
    started_at: datetime | None = None,
) -> Run:
    """Return the row of a run that starts now (or did at ``started_at``, in UTC), with what its
    models were found to be able to do, by their ids."""
    now = started_at or datetime.now(UTC)
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


@dataclass(slots=True)
class RunSpending:
    """Tells each row of a command's runs what was paid since the row before, from what its ``cap``
    booked; the first one also paid for asking the models what they can do."""

    cap: SpendingCap | None
    told_usd: float = 0.0

    def count_untold_usd(self) -> float | None:
        """Return what no row says yet, None without a cap, where nobody knows."""
        return None if self.cap is None else self.cap.spent_usd - self.told_usd

    def tell(self) -> float | None:
        """Return what no row says yet, for a row that is written now."""
        untold_usd = self.count_untold_usd()
        if self.cap is not None:
            self.told_usd = self.cap.spent_usd
        return untold_usd
