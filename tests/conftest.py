"""Fixtures of several tests: a small store, and small complete lattices whose best policy is
known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import write_tiny_store

from routerlib.costs import Lens
from routerlib.lattice import TERMINAL, Lattice

# Tokens that a model reads uncached, reads cached and writes at every decision of a toy.
CALL_TOKENS = (0.0, 0.0, 10.0)
PROBE_TOKENS = (0.0, 0.0, 1.0)
JUDGE_TOKENS = (2.0, 0.0, 1.0)


def make_toy_ledger(n_nodes: int) -> dict[str, np.ndarray]:
    """The chosen call; a probe or a draft when large is chosen; the judge's call besides."""
    before = np.zeros((n_nodes, 2, 2, 3))
    before[:, 0, 0], before[:, 1, 1] = CALL_TOKENS, CALL_TOKENS
    probe, draft = before.copy(), before.copy()
    probe[:, 1, 0] = PROBE_TOKENS
    draft[:, 1, 0] = CALL_TOKENS
    judge = draft.copy()
    judge[:, :, 1] += JUDGE_TOKENS
    return {"before": before, "probe": probe, "draft": draft, "judge": judge}


def build_toy_lattice(
    is_right: Callable[[int, tuple[int, ...]], bool], kinds: list[int], depth: int, seed: int = 0
) -> Lattice:
    """A full binary tree for each problem; ``is_right(kind, actions)`` grades a whole path.

    ``problem_n_words`` is the problem's kind; all other fields are noise, hidden ones included.
    """
    n_problems = len(kinds)
    sizes = [n_problems * 2**d for d in range(depth + 1)]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    node_depth = np.repeat(np.arange(depth + 1), sizes).astype(np.int32)
    within = np.arange(offsets[-1]) - offsets[node_depth]
    path = within % 2**node_depth
    node_problem = (within // 2**node_depth).astype(np.int32)
    next_node = np.full((offsets[-1], 2), TERMINAL, dtype=np.int32)
    outcome = np.full((offsets[-1], 2), np.nan)
    parent = np.full(offsets[-1], -1, dtype=np.int32)
    parent_action = np.full(offsets[-1], -1, dtype=np.int32)
    for node in range(offsets[-1]):
        d = int(node_depth[node])
        actions = tuple(int(path[node]) >> (d - 1 - i) & 1 for i in range(d))
        for action in (0, 1):
            if d == depth:
                kind = kinds[node_problem[node]]
                outcome[node, action] = is_right(kind, (*actions, action))
                continue
            child = offsets[d + 1] + node_problem[node] * 2 ** (d + 1) + 2 * path[node] + action
            next_node[node, action], parent[child], parent_action[child] = child, node, action
    noise = np.random.default_rng(seed)
    fields = {
        "problem_n_words": np.array(kinds, dtype=np.float64)[node_problem],
        "depth": node_depth.astype(np.float64),
        "last_mean_logprob": -noise.random(offsets[-1]),
        "probe_entropy": noise.random(offsets[-1]),
        "draft_mean_logprob": -noise.random(offsets[-1]),
        "draft_min_logprob": -noise.random(offsets[-1]),
    }
    return Lattice(
        problem_ids=tuple(f"toy/train/{i}" for i in range(n_problems)),
        model_ids=("small", "large"),
        depth=depth,
        plan="lattice",
        node_problem=node_problem,
        node_depth=node_depth,
        level_offsets=offsets,
        node_state=np.array([f"state {i}" for i in range(offsets[-1])]),
        parent=parent,
        parent_action=parent_action,
        next_node=next_node,
        outcome=outcome,
        ledger=make_toy_ledger(int(offsets[-1])),
        fields=fields,
    )


@pytest.fixture
def toy_lens() -> Lens:
    """A written token costs 1 by the small model and 3 by the large."""
    return Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))


@pytest.fixture
def make_toy_lattice() -> Callable[..., Lattice]:
    """The builder of toy lattices: ``(is_right, kinds, depth, seed=0)``."""
    return build_toy_lattice


@pytest.fixture
def first_step_lattice() -> Lattice:
    """Forty problems of depth 2 where only the author of the first step counts: small for kind 0
    (16 problems), large for kind 1 (24). Always small is right on 0.4 at cost 30, always large on
    0.6 at cost 90; the best policy is right on all, at cost 30 and 50."""
    kinds = [0, 1, 1, 0, 1] * 8
    return build_toy_lattice(lambda kind, actions: actions[0] == kind, kinds, depth=2)


@pytest.fixture(scope="session")
def tiny_store_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small store, written once; tests take ``tiny_store``, a copy that they may change."""
    return write_tiny_store(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_store(tiny_store_original: Path, tmp_path: Path) -> Path:
    """A compacted store of three problems and two models; ``tiny.py`` has its values by hand."""
    return Path(shutil.copytree(tiny_store_original, tmp_path / "traces"))
