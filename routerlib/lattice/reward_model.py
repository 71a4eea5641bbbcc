"""The bill of a process reward model that reads every draft, as one more model of the ledger.

Routers that follow a reward score the small model's draft at every step with a model of its own,
and the published counts of tokens leave that model out. It reads the problem once and then every
step that is written, kept or thrown away, once: with its cache kept along the path nothing is read
again, so this is the least that it can take. It reads what is in the steps, so neither what a model
wrote in thought nor refused answers. It writes nothing, for its score is read off one forward pass.
Its tokens are counted by the other models' tokenisers, which wrote them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routerlib.costs import LEDGER_FIELDS
from routerlib.lattice.arrays import Lattice


def bill_reward_model(lattice: Lattice) -> Lattice:
    """Return the lattice with a reward model after the models of its ``draft`` ledger, which is
    then (N, K, K + 1, 3): price it with a lens of the models' cards and the reward model's.

    Other protocols and all else stay, so their lens has K models. Raises ``ValueError`` for a
    lattice without ``text_tokens``.
    """
    if lattice.text_tokens is None:
        raise ValueError("the lattice has no text_tokens: build it from recorded steps")
    draft = lattice.ledger["draft"]
    writes = draft[..., LEDGER_FIELDS.index("completion_tokens")] > 0.0
    written = np.where(writes, lattice.text_tokens[:, None, :], 0.0).sum(axis=2)
    uncached = draft[:, 0, 0, LEDGER_FIELDS.index("uncached_prompt_tokens")]
    read = written + np.where(lattice.node_depth == 0, uncached, 0.0)[:, None]
    bill = np.zeros((*draft.shape[:2], 1, len(LEDGER_FIELDS)))
    bill[..., 0, LEDGER_FIELDS.index("uncached_prompt_tokens")] = read
    bill[np.isnan(draft).any(axis=(2, 3))] = np.nan
    return replace(
        lattice, ledger={**lattice.ledger, "draft": np.concatenate([draft, bill], axis=2)}
    )
