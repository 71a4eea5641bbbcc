"""How much of the prompts servers computed again, and what another order of calls would change.

The ratio is (prompt tokens that were not in the server's cache, summed over answered calls) over
(tokens of the prefix tree of the prompts, each counted once for each model). A server that caches
whole blocks computes up to a block of every prompt again; one that also caches what it generated
itself saves the tokens of its own steps, so the ratio can be below 1.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from bench.measurement import Measurement
from bench.prompt_tree import Call, count_unique_tokens, group_lengths, load_calls

CHUNK_PROBLEMS = 150
"""Problems whose calls are made together; that of ``CollectConfig.chunk_problems``."""

SIMULATIONS = (
    ("level", 32, None),
    ("level", 16, None),
    ("level", 32, 50_000),
    ("problem", 32, 50_000),
)
"""Order of calls, tokens of a block, tokens that the cache holds (None: it never forgets)."""

_COUNTED = ("calls", "prompt_tokens", "recomputed_tokens", "unique_tokens")


def measure_prefix_cache(root: Path) -> list[Measurement]:
    """Return the ratio of the store at ``root`` for each model, with simulated ones beside it: sums
    over its prompts, each with a tree and a cache of its own."""
    found = []
    for model_id, by_prompt in sorted(load_calls(root).items()):
        ratios: dict[str, float] = {}
        sums: dict[str, float] = defaultdict(float)
        for prompt, calls in sorted(by_prompt.items()):
            counts = count_tokens(calls)
            ratios[prompt] = counts["recomputed_tokens"] / counts["unique_tokens"]
            for name, count in counts.items():
                sums[name] += count
        unique = sums["unique_tokens"]
        detail = {
            **{name: sums[name] for name in _COUNTED},
            "recomputed_tokens_per_call": sums["recomputed_tokens"] / sums["calls"],
            "unique_tokens_per_call": unique / sums["calls"],
            "ratio_by_prompt": ratios,
            "simulated_ratios": {
                name: total / unique for name, total in sums.items() if name not in _COUNTED
            },
        }
        found.append(
            Measurement(
                f"prefix cache: recomputed / unique, {model_id}",
                sums["recomputed_tokens"] / unique,
                at_most=1.3,
                detail=detail,
            )
        )
    return found


def count_tokens(calls: Sequence[Call]) -> dict[str, float]:
    """Count what one model's calls with one prompt took, and would have taken in each of
    ``SIMULATIONS``."""
    lengths = group_lengths(calls)
    shared = max(call.shared_tokens for call in calls)
    return {
        "calls": len(calls),
        "prompt_tokens": sum(call.prompt_tokens for call in calls),
        "recomputed_tokens": sum(call.prompt_tokens - call.cached_tokens for call in calls),
        "unique_tokens": count_unique_tokens(shared, lengths.values()),
    } | {
        f"{order}, {block} tokens a block, cache of {capacity or 'all'} tokens": simulate(
            arrange(calls, order), lengths, shared, block, capacity
        )
        for order, block, capacity in SIMULATIONS
    }


def arrange(calls: Sequence[Call], order: str) -> list[Call]:
    """Return one model's calls in another order, chunk by chunk of problems.

    ``level`` is level by level, as the collector makes them; ``problem`` is one problem after the
    other, each level by level.
    """
    chunks: dict[str, int] = {}
    for call in calls:
        chunks.setdefault(call.problem_id, len(chunks) // CHUNK_PROBLEMS)
    by: dict[str, Callable[[Call], tuple[object, ...]]] = {
        "level": lambda call: (call.depth,),
        "problem": lambda call: (call.problem_id, call.depth),
    }
    return sorted(calls, key=lambda call: (chunks[call.problem_id], *by[order](call)))


def simulate(
    calls: Sequence[Call],
    lengths: Mapping[str, Mapping[str, int]],
    shared_tokens: int,
    block_tokens: int,
    capacity_tokens: int | None,
) -> int:
    """Return the prompt tokens that a cache of whole blocks, the least recently used one leaving
    first, would have computed again if the calls came one at a time in this order.

    A call leaves the blocks of its prompt in the cache, and those of its answer if the model was
    asked to continue it.
    """
    blocks = {
        (problem_id, text): list_blocks(problem_id, text, prompts, shared_tokens, block_tokens)
        for problem_id, prompts in lengths.items()
        for text in prompts
    }
    cache: OrderedDict[Hashable, None] = OrderedDict()
    most = None if capacity_tokens is None else capacity_tokens // block_tokens
    recomputed = 0
    for call in calls:
        asked = blocks[call.problem_id, call.text]
        usable = (call.prompt_tokens - 1) // block_tokens  # the last token is always computed
        hits = sum(1 for _ in takewhile(cache.__contains__, asked[:usable]))
        recomputed += call.prompt_tokens - hits * block_tokens
        left = blocks.get((call.problem_id, call.next_text), asked)
        for block in reversed(left):  # of one prompt, the end is forgotten first
            cache[block] = None
            cache.move_to_end(block)
        while most is not None and len(cache) > most:
            cache.popitem(last=False)
    return recomputed


def list_blocks(
    problem_id: str,
    text: str,
    prompts: Mapping[str, int],
    shared_tokens: int,
    block_tokens: int,
) -> list[Hashable]:
    """Name the whole blocks of a prompt, in order. Prompts with the same beginning share the
    names of its blocks."""
    path = sorted((other for other in prompts if text.startswith(other)), key=len)
    tokens, characters = [prompts[other] for other in path], [len(other) for other in path]
    names: list[Hashable] = []
    for end in range(block_tokens, prompts[text] + 1, block_tokens):
        if end <= shared_tokens:
            names.append(end)
        else:
            position = math.ceil(np.interp(end, tokens, characters))
            names.append((problem_id, end, text[:position]))
    return names
