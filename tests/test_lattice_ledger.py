"""What every action costs on the tree made by hand, under each protocol.

Lens: an uncached or written token is 1 by the small model and 3 by the large. Shared prompt 10,
own prompt 5, so a first call reads 5 tokens uncached; see ``make_hand_tables``.
"""

from __future__ import annotations

import numpy as np
import pytest
from lattice_cases import build_hand_lattice, build_scripted, index_nodes

from routerlib.costs import Lens, compute_cost
from routerlib.features import PROTOCOLS

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
SMALL, LARGE = 0, 1

# (path to the node, action): cost under before, probe, draft
BY_HAND = {
    ((), SMALL): (5 + 2, 5 + 2, 5 + 2),
    ((), LARGE): (3 * (5 + 3), 24 + 5 + 1, 24 + 5 + 2),
    # A was written by small, which has read 15 + 2 = 17 tokens; large knows the shared 10
    ((0,), SMALL): (4, 4, 4),
    ((0,), LARGE): (3 * (7 + 3), 30 + 0 + 1, 30 + 0 + 4),
    # B was written by large; small knows the shared 10, or 15 once it probed or drafted at the root
    ((1,), SMALL): (8 + 2, 3 + 2, 3 + 2),
    ((1,), LARGE): (3 * (0 + 4), 12 + 3 + 1, 12 + 3 + 2),
    # AC: small read 17, large 17 + 3 = 20
    ((0, 1), SMALL): (3 + 5, 3 + 5, 3 + 5),
    ((0, 1), LARGE): (3 * (0 + 6), 18 + 3 + 1, 18 + 3 + 5),
    # BC: small read 18 + 2 = 20, large 18
    ((1, 0), SMALL): (5, 5, 5),
    ((1, 0), LARGE): (3 * (2 + 6), 24 + 0 + 1, 24 + 0 + 5),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_costs_by_hand(protocol: str) -> None:
    lattice = build_hand_lattice()
    nodes = index_nodes(lattice)
    cost = compute_cost(lattice.ledger[protocol], LENS)
    for (path, action), expected in BY_HAND.items():
        assert cost[nodes["p", path], action] == expected[PROTOCOLS.index(protocol)], (path, action)


def test_tokens_by_hand() -> None:
    """Large at A under ``draft``: small drafts 4 tokens and has all its prompt cached; large
    reads the 7 tokens it has not seen."""
    lattice = build_hand_lattice()
    node = index_nodes(lattice)["p", (0,)]
    assert lattice.ledger["draft"][node, LARGE].tolist() == [[0, 17, 4], [7, 10, 3]]
    assert lattice.ledger["probe"][node, LARGE].tolist() == [[0, 17, 1], [7, 10, 3]]
    assert lattice.ledger["before"][node, LARGE].tolist() == [[0, 0, 0], [7, 10, 3]]
    for protocol in PROTOCOLS:
        assert lattice.ledger[protocol][node, SMALL].tolist() == [[0, 17, 4], [0, 0, 0]]


def test_deciding_costs_only_the_small_model_more() -> None:
    for seed in range(5):
        lattice = build_scripted(seed, n_models=3)
        before, probe, draft = (lattice.ledger[protocol] for protocol in PROTOCOLS)
        for deciding in (probe, draft):
            np.testing.assert_array_equal(deciding[..., 1:, :], before[..., 1:, :])
        # the small model writes a probe of one token, or its whole step, wherever it is not chosen
        assert np.all(before[:, 1:, 0] == 0)
        assert np.all(probe[:, 1:, 0, 2] == 1)
        assert np.all(draft[:, 1:, 0, 2] == draft[:, :1, 0, 2])
        assert np.all(draft[:, 1:, 0, 2] >= 1)


def test_a_model_reads_its_prompt_once() -> None:
    """Uncached and cached tokens are the recorded prompt, whatever was read before."""
    lattice = build_scripted(1)
    for protocol in PROTOCOLS:
        read = lattice.ledger[protocol][..., :2].sum(axis=-1)
        for action in range(2):
            np.testing.assert_array_equal(
                read[:, action, action], lattice.ledger["before"][:, action, action, :2].sum(-1)
            )
        assert np.all(lattice.ledger[protocol] >= 0)
