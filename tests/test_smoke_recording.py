"""A real recording, end to end: two local models, one generated problem, a complete lattice."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerlib import cli
from routerlib.lattice import coverage, load_lattice
from routerlib.model_options import LARGE, SMALL
from routerlib.store import compact, verify
from routerlib.weights import find_weights, get_model_card

MISSING = [name for name in (SMALL, LARGE) if find_weights(name) is None]


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING), reason=f"no weights of {MISSING}: `routerlib weights fetch` gets them"
)
def test_two_local_models_record_a_complete_lattice(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    traces = tmp_path / "traces"
    options = ["--benchmark", "gsm_symbolic", "--limit", "1", "--depth", "1"]
    arguments = ["collect", *options, "--engine", "llamacpp", "--traces", str(traces)]
    assert cli.main(arguments) == 0
    compact(traces)
    assert verify(traces) == []
    lattice = load_lattice(
        traces,
        benchmark="gsm_symbolic",
        split="train",
        model_ids=tuple(get_model_card(name, "llamacpp").id for name in (SMALL, LARGE)),
        depth=1,
    )
    assert coverage(lattice).share_problems == 1.0
    assert cli.main([*arguments, "--dry-run"]) == 0
