"""The bound on one problem's cost: by hand, against every path of recorded lattices, and read from
a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from lattice_cases import JUDGE_SHARED, judge_drafts

from routerlib.cost_bounds import CostCaps, TokenCaps, compute_cost_caps, read_token_caps
from routerlib.costs import Lens
from routerlib.errors import CalibrationError
from routerlib.evaluate import evaluate_ends
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice import build_lattice, compute_edge_costs, load_tables

CAPS = TokenCaps(step=10, tail=20, shared=100, problem=30, judge_shared=50)
# Uncached, cached, written.
LENS = Lens("toy", "units", np.array([[1.0, 0.1, 2.0], [3.0, 0.3, 6.0]]))


def test_bounds_by_hand() -> None:
    # Depth 2: 20 tokens of steps, so 3 prompts of 150 are read again; the problem is read by each.
    alone = 30 + 45 + 2 * 40, 90 + 135 + 6 * 40
    # A step by large costs 6 to write and 1 to be read by small; the tail 6.
    assert compute_cost_caps(CAPS, 2, LENS, "before") == CostCaps(*alone, 120 + 135 + 140 + 120)
    assert compute_cost_caps(CAPS, 2, LENS, "probe") == CostCaps(*alone, 120 + 180 + 260 + 3 * 2)
    assert compute_cost_caps(CAPS, 2, LENS, "draft") == CostCaps(*alone, 120 + 180 + 180 + 160)
    # Three calls: the problem, drafts, steps and questions of 8 bytes; 3 prompts of 100; 3 digits.
    judge = 3 * 30 + 3 * (2 * 20 + 20 + 3 * 8) + 0.3 * 3 * 100 + 6 * 3
    assert compute_cost_caps(CAPS, 2, LENS, "judge") == CostCaps(*alone, 640 + judge)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_path_costs_more(tiny_store: Path, protocol: DecisionProtocol) -> None:
    models = (tiny.SMALL, tiny.LARGE)
    tables = judge_drafts(load_tables(tiny_store), *models)
    lattice = build_lattice(
        tables, benchmark="tiny", split="test", model_ids=models, depth=tiny.DEPTH
    )
    caps = read_token_caps(tables, lattice.problem_ids, models, tiny.PROBLEM_TOKENS)
    assert caps == TokenCaps(100, 200, tiny.SHARED_TOKENS, tiny.PROBLEM_TOKENS, JUDGE_SHARED)
    bound = compute_cost_caps(caps, tiny.DEPTH, LENS, protocol)
    edges = compute_edge_costs(lattice, LENS, protocol)
    dearest = np.zeros(lattice.n_nodes)
    for node in range(lattice.n_nodes)[::-1]:
        after = [dearest[child] if child >= 0 else 0.0 for child in lattice.next_node[node]]
        dearest[node] = np.max(edges[node] + after)
    assert 0.0 < dearest.max() <= bound.router
    for values, cap in zip(evaluate_ends(lattice, LENS), (bound.small, bound.large), strict=True):
        assert 0.0 < values.cost.max() <= cap


def test_longer_problems_than_allowed_are_refused(tiny_store: Path) -> None:
    tables = load_tables(tiny_store)
    ids = [problem.id for problem in tiny.make_problems()]
    with pytest.raises(CalibrationError, match=r"a prompt of 10 tokens .* problem_tokens = 9:"):
        read_token_caps(tables, ids, (tiny.SMALL, tiny.LARGE), 9)


@pytest.mark.parametrize("field", ["step", "tail", "shared", "problem"])
def test_every_cap_counts(field: str) -> None:
    more = replace(CAPS, **{field: getattr(CAPS, field) + 1})
    for protocol in PROTOCOLS:
        assert (
            compute_cost_caps(more, 2, LENS, protocol).router
            > compute_cost_caps(CAPS, 2, LENS, protocol).router
        )


def test_what_the_judges_prompts_share_is_paid_under_its_protocol_only() -> None:
    more = replace(CAPS, judge_shared=CAPS.judge_shared + 1)
    for protocol in PROTOCOLS:
        caps, other = (compute_cost_caps(each, 2, LENS, protocol) for each in (CAPS, more))
        assert (other.router > caps.router) == (protocol == "judge")


def test_a_store_without_judgements_has_no_judge(tiny_store: Path) -> None:
    tables = load_tables(tiny_store)
    ids = [problem.id for problem in tiny.make_problems()]
    assert read_token_caps(tables, ids, (tiny.SMALL, tiny.LARGE)).judge_shared == 0
