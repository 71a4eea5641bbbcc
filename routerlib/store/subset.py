"""A smaller store with some problems of another one: fixtures, samples to send to somebody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from routerlib.errors import StoreError
from routerlib.store.compaction import compact
from routerlib.store.reading import load_table
from routerlib.store.schema import make_record
from routerlib.store.writer import TraceWriter


def copy_problems(root: Path, target: Path, problem_ids: Sequence[str]) -> None:
    """Write a store at ``target`` with all that is recorded of some problems, and compact it.

    All models come along, and the runs that made the steps. Raises StoreError for an unknown
    problem or when ``target`` is already there.
    """
    if target.exists():
        raise StoreError(f"{target} is already there: name a new folder or remove it")
    wanted = set(problem_ids)
    problems = _load_records(root, "problems", pc.field("id").isin(wanted))
    if unknown := sorted(wanted - {problem.id for problem in problems}):
        raise StoreError(f"{root} has no problem {unknown[0]!r} ({len(unknown)} are unknown)")
    in_wanted = pc.field("problem_id").isin(wanted)
    steps = _load_records(root, "steps", in_wanted)
    runs = {step.run_id for step in steps}
    with TraceWriter(target) as writer:
        for problem in problems:
            writer.add_problem(problem)
        for model in _load_records(root, "models"):
            writer.add_model(model)
        for run in _load_records(root, "runs", pc.field("id").isin(runs)):
            writer.add_run(run)
        for state in _load_records(root, "states", in_wanted):
            writer.add_state(state)
        for step in steps:
            writer.add_step(step)
        for text in _load_records(root, "problem_texts", in_wanted):
            writer.add_problem_text(text)
        for score in _load_records(root, "prompt_scores", in_wanted):
            writer.add_prompt_score(score)
        of_steps = pc.field("step_id").isin({step.id for step in steps})
        for choice in _load_records(root, "choices", of_steps):
            writer.add_choice(choice)
        for judgement in _load_records(root, "judgements", of_steps):
            writer.add_judgement(judgement)
    compact(target)


def _load_records(root: Path, name: str, where: Any = None) -> list[Any]:
    return [make_record(name, row) for row in load_table(root, name, where=where).to_pylist()]
