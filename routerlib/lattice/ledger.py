"""What each action makes each model read and write, under each decision protocol.

A model pays for the part of its prompt that it has not read yet on this path. At first it has read
what all problems share (the system message and the worked examples); after a call of its own it
has read that prompt and its own completion; text written by another model is new to it. So a
switch is billed by itself, as the prefill of the text that the other model wrote.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from routerlib.costs import LEDGER_FIELDS
from routerlib.features import PROTOCOLS, DecisionProtocol
from routerlib.lattice.fields import Paths, take_rows
from routerlib.lattice.rows import RecordedGraph

PROBE_TOKENS = 1.0

FloatArray = npt.NDArray[np.float64]


def compute_ledgers(graph: RecordedGraph, paths: Paths) -> dict[str, FloatArray]:
    """Return protocol -> (N, K, K, 3): tokens of each model (third axis) for each action.

    - ``before``: the chosen model's call;
    - ``probe``: the small model reads the prompt everywhere and writes one token; when it is
      chosen this is the start of its step, so it pays its step alone;
    - ``draft``: the small model writes its step everywhere; when another is chosen both calls are
      paid, and of the thrown-away draft the small model keeps only the prompt in its cache.

    An action whose calls are not all recorded is NaN throughout.
    """
    return {protocol: _compute_ledger(graph, paths, protocol) for protocol in PROTOCOLS}


def _compute_ledger(graph: RecordedGraph, paths: Paths, protocol: DecisionProtocol) -> FloatArray:
    """Return (N, K, K, 3), walking the levels with what each model has read: seen (N, K)."""
    prompt = take_rows(graph.prompt_tokens, paths.edge_step)
    shared = take_rows(graph.shared_tokens, paths.edge_step)
    completion = take_rows(graph.completion_tokens, paths.edge_step)
    n_nodes, n_models = paths.edge_step.shape
    actions = np.arange(n_models)
    ledger = np.zeros((n_nodes, n_models, n_models, len(LEDGER_FIELDS)))
    seen = np.zeros((n_nodes, n_models))
    seen_after = np.zeros((n_nodes, n_models, n_models))
    for depth, nodes in enumerate(paths.levels()):
        if depth > 0:
            seen[nodes] = seen_after[paths.parent[nodes], paths.parent_action[nodes]]
        known = np.maximum(seen[nodes], shared[nodes])
        uncached = np.maximum(prompt[nodes] - known, 0.0)
        call = np.stack([uncached, prompt[nodes] - uncached, completion[nodes]], axis=-1)
        ledger[nodes, actions, actions] = call
        seen_after[nodes] = seen[nodes][:, None, :]
        if protocol != "before":
            spent = call[:, 0].copy()
            if protocol == "probe":
                spent[:, 2] = np.where(np.isnan(spent[:, 2]), np.nan, PROBE_TOKENS)
            ledger[nodes, 1:, 0] = spent[:, None, :]
            seen_after[nodes, 1:, 0] = prompt[nodes, :1]
        seen_after[nodes, actions, actions] = prompt[nodes] + completion[nodes]
    ledger[np.isnan(ledger).any(axis=(2, 3))] = np.nan
    return ledger
