"""The tree of the prompts of one model: which tokens of them are the same ones.

The store keeps texts and token counts, no tokens. So token positions inside a step are taken to
lie evenly over its characters; at every recorded state they are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from routerlib.store import load_table

_STEP_COLUMNS = (
    "model_id",
    "prompt_version",
    "problem_id",
    "state_id",
    "next_state_id",
    "prompt_tokens",
    "cached_prompt_tokens",
    "shared_prompt_tokens",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One answered call: the text so far before (``text``) and after it, and its prompt's tokens,
    of which the server had ``cached_tokens`` in its cache."""

    problem_id: str
    depth: int
    text: str
    next_text: str
    prompt_tokens: int
    cached_tokens: int
    shared_tokens: int


def load_calls(root: Path) -> dict[str, dict[str, list[Call]]]:
    """Load the answered calls of each model with each prompt (model id -> prompt version -> calls),
    level by level. Prompts of one version share their beginning, those of two may share nothing."""
    states = load_table(root, "states", columns=("id", "text", "depth"))
    texts = dict(zip(states["id"].to_pylist(), states["text"].to_pylist(), strict=True))
    depths = dict(zip(states["id"].to_pylist(), states["depth"].to_pylist(), strict=True))
    calls: dict[str, dict[str, list[Call]]] = defaultdict(lambda: defaultdict(list))
    for step in load_table(root, "steps", columns=_STEP_COLUMNS).to_pylist():
        if step["next_state_id"] is not None:
            call = Call(
                step["problem_id"],
                depths[step["state_id"]],
                texts[step["state_id"]],
                texts[step["next_state_id"]],
                step["prompt_tokens"],
                step["cached_prompt_tokens"],
                step["shared_prompt_tokens"],
            )
            calls[step["model_id"]][step["prompt_version"]].append(call)
    return {
        model_id: {prompt: sorted(found, key=lambda c: c.depth) for prompt, found in by.items()}
        for model_id, by in calls.items()
    }


def group_lengths(calls: Iterable[Call]) -> dict[str, dict[str, int]]:
    """Return the tokens of every prompt: problem id -> text so far -> tokens."""
    lengths: dict[str, dict[str, int]] = defaultdict(dict)
    for call in calls:
        lengths[call.problem_id][call.text] = call.prompt_tokens
    return lengths


def count_unique_tokens(shared_tokens: int, lengths: Iterable[Mapping[str, int]]) -> float:
    """Return the tokens of the prefix tree of one model's prompts, each counted once.

    ``lengths`` has the prompts of each problem (text so far -> tokens). The formula is::

        shared + sum over problems (root - shared)
               + sum over further texts t of (n(t) - n(a)) * (|t| - |c|) / (|t| - |a|)

    with n the prompt's tokens, a the longest other text that t starts with, and c the longest
    prefix that t has in common with any text sorted before it (at least a). ``shared`` includes
    the few template tokens that come after a problem's text; they differ in position for each
    problem, so the tree is that much larger (below 2% for GSM8K) than what is counted.

    >>> count_unique_tokens(100, [{"": 130, "ab cd": 140, "ab ef": 140}])
    144.0
    """
    total = float(shared_tokens)
    for prompts in lengths:
        previous, path = "", [""]
        total += min(prompts.values()) - shared_tokens  # the root, or the shortest one recorded
        for text in sorted(prompts):
            path = [before for before in path if text.startswith(before)]
            before = path[-1] if path else ""
            if before != text:
                common = max(count_common(previous, text), len(before))
                new = prompts[text] - prompts.get(before, min(prompts.values()))
                total += new * (len(text) - common) / (len(text) - len(before))
            previous = text
            path.append(text)
    return total


def count_common(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike.

    >>> count_common("ab cd", "ab ef")
    3
    """
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
