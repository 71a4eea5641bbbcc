"""What each action makes each model read and write, under each decision protocol.

A model pays for the part of its prompt that it has not read yet on this path. At first it has read
what all problems share (the system message and the worked examples); after a call of its own it
has read that prompt and its own completion; text written by another model is new to it. So a
switch is billed by itself, as the prefill of the text that the other model wrote. Where a model is
asked anew in a user's turn (protocols ``continue_turn`` and ``one_shot``), its own completion is
part of that turn, so it is read like another's. It has never read more than its prompt holds: not
what it wrote in thought, nor what was cut off or refused. What a refused answer took is billed too:
its tokens as written, and the prompt that it answered, which the next try repeats, as cached.

The judge is the large model with another prompt: other instructions, then the same problem and
steps. So it has two caches on a path. What it read in order to solve does not help it to judge;
what it read in order to judge (the problem, the steps, drafts that were kept) it does not read
again.
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
      paid, and of the thrown-away draft the small model keeps only the prompt in its cache;
    - ``judge``: as ``draft``, and the large model scores the draft everywhere.

    An action whose calls are not all recorded is NaN throughout.
    """
    ledgers = {name: _compute_ledger(graph, paths, name) for name in PROTOCOLS if name != "judge"}
    return ledgers | {"judge": _add_judge_calls(ledgers["draft"], graph, paths)}


def _add_judge_calls(draft: FloatArray, graph: RecordedGraph, paths: Paths) -> FloatArray:
    """Return the ledger (N, K, K, 3) of drafts with a judge's call by the last model at each node.

    Its prompt is what all judge prompts share, the problem, the steps, the draft and the question.
    Cached on this path are the shared part and, after the first decision, the problem and the steps
    that it read before the last decision; the last step too if it is the draft that was judged,
    else that step is new to it, and so are the new draft and the question. How long problem and
    steps are in its tokens is known from its prompts for solving, less what those share.
    """
    if not np.isfinite(graph.judge_score).any():
        return np.broadcast_to(np.nan, draft.shape)  # takes no memory
    drafted = paths.edge_step[:, 0]
    prompt = take_rows(graph.judge_prompt_tokens, drafted)
    shared = take_rows(graph.judge_shared_tokens, drafted)
    solution = take_rows(graph.prompt_tokens - graph.shared_tokens, paths.edge_step[:, -1])
    known = np.where(paths.parent_action == 0, solution, solution[paths.parent])
    known[paths.parent < 0] = 0.0
    uncached = np.maximum(prompt - shared - known, 0.0)
    written = take_rows(graph.judge_completion_tokens, drafted)
    ledger = draft.copy()
    ledger[:, :, -1] += np.stack([uncached, prompt - uncached, written], axis=-1)[:, None]
    ledger[np.isnan(ledger).any(axis=(2, 3))] = np.nan
    return ledger


def _compute_ledger(graph: RecordedGraph, paths: Paths, protocol: DecisionProtocol) -> FloatArray:
    """Return (N, K, K, 3), walking the levels with what each model has read: seen (N, K)."""
    prompt = take_rows(graph.prompt_tokens, paths.edge_step)
    shared = take_rows(graph.shared_tokens, paths.edge_step)
    completion = take_rows(graph.completion_tokens, paths.edge_step)
    kept = take_rows(graph.kept_tokens, paths.edge_step)
    refused = take_rows(graph.refused_prompt_tokens, paths.edge_step)
    n_nodes, n_models = paths.edge_step.shape
    actions = np.arange(n_models)
    ledger = np.zeros((n_nodes, n_models, n_models, len(LEDGER_FIELDS)))
    seen = np.zeros((n_nodes, n_models))
    seen_after = np.zeros((n_nodes, n_models, n_models))
    for depth, nodes in enumerate(paths.levels()):
        if depth > 0:
            read = seen_after[paths.parent[nodes], paths.parent_action[nodes]]
            seen[nodes] = np.fmin(read, prompt[nodes])
        known = np.maximum(seen[nodes], shared[nodes])
        uncached = np.maximum(prompt[nodes] - known, 0.0)
        cached = prompt[nodes] - uncached + refused[nodes]
        call = np.stack([uncached, cached, completion[nodes]], axis=-1)
        ledger[nodes, actions, actions] = call
        seen_after[nodes] = seen[nodes][:, None, :]
        if protocol != "before":
            spent = call[:, 0].copy()
            if protocol == "probe":
                spent[:, 2] = np.where(np.isnan(spent[:, 2]), np.nan, PROBE_TOKENS)
            ledger[nodes, 1:, 0] = spent[:, None, :]
            seen_after[nodes, 1:, 0] = prompt[nodes, :1]
        seen_after[nodes, actions, actions] = prompt[nodes] + kept[nodes]
    ledger[np.isnan(ledger).any(axis=(2, 3))] = np.nan
    return ledger
