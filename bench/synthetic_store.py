"""Write a sound store of as many steps as wanted, a few megabytes of memory at a time.

Every problem is one tree: two models continue each state, five times. Texts are the same for all
problems and numbers are random, so the ids (which name the problem) are the store's own and the
sizes are realistic. Files are shards, each with rows of problems from all over the store, as
recordings leave them, so compaction has everything to sort.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from routerlib.records import (
    ModelCard,
    ProblemRow,
    Run,
    compute_state_id,
    compute_step_id,
    compute_text_sha256,
)
from routerlib.store.files import write_parquet
from routerlib.store.schema import DECIMALS, Record, make_row, make_schema, make_table

MODELS = ("synthetic-small", "synthetic-large")
DEPTH = 5
DELIMITER = "\n"
_PROBLEMS_PER_SHARD = 800
_TOKENS, _ALTERNATIVES = 20, 10
_WORDS = ["apples", "pens", "costs", "each", "more", "left", "half", "twice", "sum", "then"]


@dataclass(frozen=True, slots=True)
class Tree:
    """The states of a problem (text, depth), and its steps (from, to, model; indices)."""

    states: list[tuple[str, int]]
    steps: list[tuple[int, int, int]]


def make_tree() -> Tree:
    """Return the tree that every problem has: 63 states and 62 steps."""
    generator = np.random.default_rng(0)
    states, steps = [("", 0)], []
    for before, (text, depth) in enumerate(states):  # grows meanwhile, level by level
        if depth == DEPTH:
            break
        for model in range(len(MODELS)):
            line = f"Step {depth + 1} of {model}: {' '.join(generator.choice(_WORDS, 14))}\n"
            steps.append((before, len(states), model))
            states.append((text + line, depth + 1))
    return Tree(states, steps)


def get_problem_id(number: int) -> str:
    """Return the id of a problem; ids sort by number."""
    return f"synthetic/train/{number:08d}"


def count_problems(steps: int) -> int:
    """Return how many problems it takes to have so many steps."""
    return -(-steps // len(make_tree().steps))


def write_synthetic_store(root: Path, steps: int) -> None:
    """Write the shards of a store of at least ``steps`` steps; `compact` gives it a manifest."""
    tree, problems = make_tree(), count_problems(steps)
    shards = -(-problems // _PROBLEMS_PER_SHARD)
    _write_records(root, "models", [_make_card(name) for name in MODELS])
    _write_records(root, "runs", [_make_run()])
    for shard in range(shards):
        numbers = range(shard, problems, shards)
        rows: list[Record] = [_make_problem(number) for number in numbers]
        _write_records(root, "problems", rows, shard)
        ids = [get_problem_id(number) for number in numbers]
        states, recorded = make_tables(tree, ids, np.random.default_rng(shard))
        write_parquet(_get_shard(root, "states", shard), states)
        write_parquet(_get_shard(root, "steps", shard), recorded)


def make_tables(
    tree: Tree, problem_ids: list[str], generator: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """Return states and steps of some problems."""
    texts = [text for text, _ in tree.states]
    ends = [depth == DEPTH for _, depth in tree.states]
    state_ids = [
        compute_state_id(problem_id, text, end)
        for problem_id in problem_ids
        for text, end in zip(texts, ends, strict=True)
    ]
    count = len(problem_ids)
    states = {
        "id": state_ids,
        "problem_id": _repeat(problem_ids, len(texts)),
        "depth": [depth for _, depth in tree.states] * count,
        "text": texts * count,
        "is_terminal": ends * count,
        "extracted_answer": ["7" if end else None for end in ends] * count,
        "is_correct": [end if end else None for end in ends] * count,
    }
    return _make_table("states", states), _make_steps(tree, problem_ids, state_ids, generator)


def _make_steps(
    tree: Tree, problem_ids: list[str], state_ids: list[str], generator: np.random.Generator
) -> pa.Table:
    texts = [text for text, _ in tree.states]
    count, rows = len(problem_ids), len(problem_ids) * len(tree.steps)
    models = [MODELS[model] for _, _, model in tree.steps]
    starts = range(0, len(state_ids), len(texts))
    constant: dict[str, Any] = {
        "attempt": 0, "run_id": "synthetic", "kind": "step", "sample_index": 0,
        "prompt_version": "synthetic-v1", "temperature": 0.0, "max_tokens": 100,
        "ended_by": "delimiter", "completion_tokens": _TOKENS, "cached_prompt_tokens": 0,
        "shared_prompt_tokens": 800, "reasoning_tokens": None, "finish_reason": "stop",
        "retries": 0, "error": None, "doubtful_tries": None,
    }  # fmt: skip
    setting = {"kind": "step", "temperature": 0.0, "max_tokens": 100, "delimiter": DELIMITER}
    steps: dict[str, Any] = {name: [value] * rows for name, value in constant.items()}
    steps |= {
        "id": [
            compute_step_id(
                problem_id=problem_id,
                prefix=texts[before],
                model_id=MODELS[model],
                prompt_version="synthetic-v1",
                sample_index=0,
                **setting,  # type: ignore[arg-type]
            )
            for problem_id in problem_ids
            for before, _, model in tree.steps
        ],
        "problem_id": _repeat(problem_ids, len(tree.steps)),
        "state_id": [state_ids[start + before] for start in starts for before, _, _ in tree.steps],
        "next_state_id": [
            state_ids[start + after] for start in starts for _, after, _ in tree.steps
        ],
        "model_id": models * count,
        "text": [texts[after][len(texts[before]) :] for before, after, _ in tree.steps] * count,
        "prompt_tokens": generator.integers(850, 1000, rows),
        "token_logprobs": _draw_lists(generator, rows, _TOKENS),
        "first_token_texts": [_WORDS[:_ALTERNATIVES]] * rows,
        "first_token_logprobs": _draw_lists(generator, rows, _ALTERNATIVES),
        "latency_s": _draw(generator, rows),
        "requested_model": models * count,
        "returned_model": models * count,
        "request_id": [generator.bytes(8).hex() for _ in range(rows)],
    }
    return _make_table("steps", steps)


def _repeat(values: list[str], times: int) -> list[str]:
    return [value for value in values for _ in range(times)]


def _draw(generator: np.random.Generator, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.round(generator.exponential(0.5, size), DECIMALS).astype(np.float32)


def _draw_lists(generator: np.random.Generator, rows: int, length: int) -> pa.Array:
    """Lists of log-probabilities; half of them are almost 0, as those of real tokens."""
    values = -_draw(generator, rows * length) * generator.integers(0, 2, rows * length)
    offsets = np.arange(0, rows * length + 1, length, dtype=np.int32)
    kind = make_schema("steps").field("token_logprobs").type
    return pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32()), type=kind)


def _make_table(name: str, columns: dict[str, Any]) -> pa.Table:
    schema = make_schema(name)
    return pa.table({column: columns[column] for column in schema.names}, schema=schema)


def _get_shard(root: Path, name: str, number: int) -> Path:
    return root / name / f"part-20260101T000000.{number:06d}Z-00000000.parquet"


def _write_records(root: Path, name: str, records: list[Record], number: int = 0) -> None:
    rows = [make_row(record) for record in records]
    write_parquet(_get_shard(root, name, number), make_table(name, rows))


def _make_card(name: str) -> ModelCard:
    return ModelCard(name, "synthetic", "synthetic", 1, "none", None, "none", 2048)


def _make_problem(number: int) -> ProblemRow:
    text_sha256 = compute_text_sha256(str(number))
    return ProblemRow(get_problem_id(number), "synthetic", "train", text_sha256, None, None)


def _make_run() -> Run:
    start = "2026-01-01T00:00:00+00:00"
    configuration = json.dumps({"delimiter": DELIMITER})
    return Run("synthetic", start, start, configuration, "none", "none", "{}", "lattice", None)
