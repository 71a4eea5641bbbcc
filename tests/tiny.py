"""A hand-made store whose values can be worked out by hand, for the tests of every layer.

Benchmark ``tiny``, three invented problems, models ``tiny-small`` (100 parameters) and
``tiny-large`` (300), complete lattices of depth 2: decisions at depths 0, 1 and 2, the last of
which picks who writes the tail. A token is a word; a prompt has 20 shared tokens, 10 of the
problem, and the words so far; nothing is cached. Every small token has log-probability -0.2, every
large one -0.1; a model's first token has probability 0.75 and one alternative 0.25.

Solutions (s small, l large; marks: + right, - wrong; ``=`` both write the same)::

    0  gold 5   "" -s,l= "2 + 3 = 5"   A
                A  -s "Answer: 6" -     A -l "So 5 pens."  B    B -s,l= "Answer: 5" +
    1  gold 19  "" -s "4 + 6 = 10"     A;  "" -l "4 * 6 = 24"  B
                A  -s "Answer: 5" -     A -l "10 - 5 = 5"  C    C -s "Answer: 5" -
                                                              C -l "4 * 6 - 5 = 19 / Answer: 19" +
                B  -s "24 - 5 = 19" D   B -l "Answer: 19" +     D -s,l= "Answer: 19" +
    2  gold 4   "" -s "Answer: 4" +    "" -l "8 / 2 = 4"  A
                A  -s "Answer: 4" +     A -l "Answer: 8" -

Each model alone, per problem (right, completion tokens, prompt tokens summed over its calls):
small (0, 7, 65), (0, 7, 65), (1, 2, 30); large (1, 10, 103), (1, 7, 65), (0, 7, 65). So small has
accuracy 1/3, large 2/3, and the best path of every problem is right: 3/3. There are 20 steps, 20
states of which 10 are terminal, and 10 states that both models continue, in 3 of them alike.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from routerlib.benchmarks import compute_problem_features
from routerlib.records import (
    ModelCard,
    Problem,
    ProblemRow,
    Run,
    State,
    Step,
    compute_state_id,
    compute_step_id,
)
from routerlib.store import TraceWriter, compact
from routerlib.store.schema import Record

SMALL, LARGE = "tiny-small", "tiny-large"
DEPTH = 2
PROMPT_VERSION = "tiny-v1"
SHARED_TOKENS, PROBLEM_TOKENS = 20, 10
LOGPROB = {SMALL: -0.2, LARGE: -0.1}
MAX_TOKENS = {"step": 100, "tail": 200}

TEXTS = (
    ("Tom has 2 pens and buys 3 more. How many pens has he?", "5"),
    ("A box holds 4 rows of 6 eggs. 5 eggs break. How many are whole?", "19"),
    ("Half of 8 apples are red. How many apples are red?", "4"),
)

# (problem, prefix, small's step, large's step); a step that ends with "\n" goes on unless it
# gives the answer.
EXPANSIONS = (
    (0, "", "2 + 3 = 5\n", "2 + 3 = 5\n"),
    (0, "2 + 3 = 5\n", "Answer: 6\n", "So 5 pens.\n"),
    (0, "2 + 3 = 5\nSo 5 pens.\n", "Answer: 5", "Answer: 5"),
    (1, "", "4 + 6 = 10\n", "4 * 6 = 24\n"),
    (1, "4 + 6 = 10\n", "Answer: 5\n", "10 - 5 = 5\n"),
    (1, "4 * 6 = 24\n", "24 - 5 = 19\n", "Answer: 19\n"),
    (1, "4 + 6 = 10\n10 - 5 = 5\n", "Answer: 5", "4 * 6 - 5 = 19\nAnswer: 19"),
    (1, "4 * 6 = 24\n24 - 5 = 19\n", "Answer: 19", "Answer: 19"),
    (2, "", "Answer: 4\n", "8 / 2 = 4\n"),
    (2, "8 / 2 = 4\n", "Answer: 4\n", "Answer: 8\n"),
)


def make_problems(split: str = "test") -> list[Problem]:
    """The three problems, ids ``tiny/<split>/0`` to ``2``."""
    return [
        Problem(f"tiny/{split}/{number}", "tiny", split, text, answer)
        for number, (text, answer) in enumerate(TEXTS)
    ]


def make_problem_row(problem: Problem) -> ProblemRow:
    """The row that is stored of a problem."""
    features = compute_problem_features(problem.text)
    return ProblemRow(
        problem.id, problem.benchmark, problem.split, problem.text_sha256, None, None, features
    )


def make_card(model_id: str, parameters: int = 100) -> ModelCard:
    """A model without prices."""
    return ModelCard(model_id, "tests", "tiny", parameters, "none", None, "CC0-1.0", 512)


def make_run(run_id: str = "tiny-run", **more: Any) -> Run:
    """The run that recorded the steps."""
    values: dict[str, Any] = {
        "started_at": "2025-01-01T00:00:00+00:00",
        "ended_at": "2025-01-01T00:01:00+00:00",
        "configuration": json.dumps({"delimiter": "\n", "depth": DEPTH}),
        "code_version": "0",
        "machine": "none",
        "library_versions": "{}",
        "plan": "lattice",
    }
    return Run(id=run_id, **(values | more))


def make_state(problem: Problem, text: str, is_terminal: bool = False) -> State:
    """A state; a terminal one is graded by its last word."""
    answer = text.rsplit(maxsplit=1)[-1] if is_terminal else None
    return State(
        id=compute_state_id(problem.id, text, is_terminal),
        problem_id=problem.id,
        depth=sum(1 for line in text.split("\n") if line),
        text=text,
        is_terminal=is_terminal,
        extracted_answer=answer,
        is_correct=answer == problem.answer if is_terminal else None,
    )


def make_step(
    before: State, after: State | None, model_id: str, *, kind: str = "step", **more: Any
) -> Step:
    """The step of a model from one state to another; a failed call when there is no other."""
    text = None if after is None else after.text.removeprefix(before.text)
    written = 0 if text is None else len(text.split())
    values: dict[str, Any] = {
        "attempt": 0,
        "run_id": "tiny-run",
        "sample_index": 0,
        "prompt_version": PROMPT_VERSION,
        "temperature": 0.0,
        "max_tokens": MAX_TOKENS[kind],
        "next_state_id": None if after is None else after.id,
        "text": text,
        "ended_by": None if text is None else "delimiter" if text.endswith("\n") else "eos",
        "completion_tokens": written,
        "prompt_tokens": SHARED_TOKENS + PROBLEM_TOKENS + len(before.text.split()),
        "cached_prompt_tokens": 0,
        "shared_prompt_tokens": SHARED_TOKENS,
        "finish_reason": None if text is None else "stop",
        "token_logprobs": (LOGPROB.get(model_id, -0.1),) * written,
        "requested_model": model_id,
    } | more
    if text is not None and "first_token_top" not in more:
        first = text.split()[0]
        values["first_token_top"] = ((first, math.log(0.75)), ("other", math.log(0.25)))
    step_id = compute_step_id(
        problem_id=before.problem_id,
        prefix=before.text,
        model_id=model_id,
        kind=kind,  # type: ignore[arg-type]
        temperature=values["temperature"],
        max_tokens=values["max_tokens"],
        delimiter="\n",
        prompt_version=values["prompt_version"],
        sample_index=values["sample_index"],
    )
    return Step(
        id=step_id,
        problem_id=before.problem_id,
        state_id=before.id,
        model_id=model_id,
        kind=kind,  # type: ignore[arg-type]
        **values,
    )


def make_tiny_records(split: str = "test") -> list[Record]:
    """All records of the store, each after those it points at."""
    records: list[Record] = [make_card(SMALL, 100), make_card(LARGE, 300), make_run()]
    return records + make_solution_records(make_problems(split))


def make_solution_records(problems: list[Problem]) -> list[Record]:
    """The rows, states and steps of the three problems, whatever they are called."""
    records: list[Record] = [make_problem_row(problem) for problem in problems]
    records += [make_state(problem, "") for problem in problems]
    for number, prefix, *texts in EXPANSIONS:
        problem = problems[number]
        before = make_state(problem, prefix)
        for model_id, text in zip((SMALL, LARGE), texts, strict=True):
            after = make_state(problem, prefix + text, is_terminal="Answer:" in text)
            kind = "tail" if before.depth == DEPTH else "step"
            records += [after, make_step(before, after, model_id, kind=kind)]
    return records


def add_records(writer: TraceWriter, records: list[Record]) -> None:
    """Add records of any kind, in order."""
    for record in records:
        getattr(writer, f"add_{_NOUNS[type(record)]}")(record)


_NOUNS: dict[type, str] = {
    ProblemRow: "problem",
    ModelCard: "model",
    Run: "run",
    State: "state",
    Step: "step",
}


def write_tiny_store(root: Path, split: str = "test") -> Path:
    """Write the store, compacted, below ``root`` and return its path."""
    store = root / "traces"
    with TraceWriter(store) as writer:
        add_records(writer, make_tiny_records(split))
    compact(store)
    return store
