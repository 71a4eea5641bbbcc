"""What rows of a store must satisfy, each alone and together: keys, links, texts, ids.

Invariant: pure functions from rows to lines, one line per problem, in the rows' order. Rows of one
problem, with the models, runs and rows of other problems that they point at, can be checked
without the rest; so can judgements and choices with the ids of the steps that succeeded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from routerlib.records import compute_state_id, compute_step_id, compute_text_sha256
from routerlib.store.schema import PRIMARY_KEYS, Row

_RECORD_AGAIN = "restore the files from version control, or delete the row's file and record again"
_COUNTS = (
    "completion_tokens",
    "prompt_tokens",
    "cached_prompt_tokens",
    "shared_prompt_tokens",
    "retries",
)


@dataclass(frozen=True, slots=True)
class _Index:
    """Rows by id; None for a table that could not be read or is left out: links to it are not
    checked."""

    problems: Mapping[str, Row] | None
    models: Mapping[str, Row] | None
    runs: Mapping[str, Row] | None
    states: Mapping[str, Row] | None
    delimiters: Mapping[str, str]


def find_row_problems(
    rows: Mapping[str, Sequence[Row] | None], successes: Set[str] | None = None
) -> list[str]:
    """Return every problem of the rows of each table (table -> rows, None when unreadable).

    Links to a table that is left out are not checked. ``successes`` are the ids of the steps that
    succeeded: by default those among the rows of ``steps``.
    """
    found = [
        f"{name}: could not be read in full, so links to and from it were not checked; mend it "
        "and verify again"
        for name, table in rows.items()
        if table is None
    ]
    for name, table in rows.items():
        found += _find_duplicates(name, table or ())
    index = _make_index(rows)
    for run in rows.get("runs") or ():
        if run["id"] not in index.delimiters:
            found.append(
                f"runs {run['id']}: its configuration is not JSON with a text 'delimiter': "
                f"{_RECORD_AGAIN}"
            )
    for state in rows.get("states") or ():
        found += _explain("states", state["id"], _check_state(state, index))
    steps = rows.get("steps")
    for step in steps or ():
        found += _explain("steps", step["id"], _check_step(step, index))
    found += _find_attempt_problems(steps or ())
    if successes is None and steps is not None:
        successes = {step["id"] for step in steps if step["error"] is None}
    for judgement in rows.get("judgements") or ():
        lines = _check_judgement(judgement, index, successes)
        found += _explain("judgements", judgement["step_id"], lines)
    for choice in rows.get("choices") or ():
        found += _explain("choices", choice["step_id"], _check_choice(choice, successes))
    for score in rows.get("prompt_scores") or ():
        found += _explain("prompt_scores", score["problem_id"], _check_prompt_score(score, index))
    for text in rows.get("problem_texts") or ():
        found += _explain("problem_texts", text["problem_id"], _check_problem_text(text, index))
    return found


def _explain(name: str, key: str, lines: Iterator[str]) -> Iterator[str]:
    return (f"{name} {key}: {line}: {_RECORD_AGAIN}" for line in lines)


def _make_index(rows: Mapping[str, Sequence[Row] | None]) -> _Index:
    def by_id(name: str) -> dict[str, Row] | None:
        table = rows.get(name)
        return None if table is None else {row["id"]: row for row in table}

    delimiters = {}
    for run in rows.get("runs") or ():
        try:
            delimiter = json.loads(run["configuration"])["delimiter"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(delimiter, str):
            delimiters[run["id"]] = delimiter
    return _Index(by_id("problems"), by_id("models"), by_id("runs"), by_id("states"), delimiters)


def _find_duplicates(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Keys that more than one row has. A run may have several: its start and its end."""
    if name == "runs":
        return
    keys = Counter(tuple(row[column] for column in PRIMARY_KEYS[name]) for row in rows)
    for key, count in keys.items():
        if count > 1:
            yield describe_duplicate(name, ", ".join(map(str, key)), count)


def describe_duplicate(name: str, key: str, count: int) -> str:
    """Return the line that says that ``count`` rows of a table have one key."""
    return (
        f"{name} {key}: {count} rows have this key: `routerlib compact` merges equal ones and "
        "names the others"
    )


def _find_missing(name: str, key: str, rows: Mapping[str, Row] | None) -> Iterator[str]:
    if rows is not None and key not in rows:
        yield f"points at {key!r}, which is not a row of {name}"


def _check_state(state: Row, index: _Index) -> Iterator[str]:
    yield from _find_missing("problems", state["problem_id"], index.problems)
    expected = compute_state_id(state["problem_id"], state["text"], state["is_terminal"])
    if state["id"] != expected:
        yield f"its content has the id {expected}"
    if state["is_terminal"] and state["is_correct"] is None:
        yield "is terminal and has no is_correct"
    if not state["is_terminal"] and state["is_correct"] is not None:
        yield f"is not terminal and has is_correct {state['is_correct']}"
    if not state["is_terminal"] and state["extracted_answer"] is not None:
        yield f"is not terminal and has an answer {state['extracted_answer']!r}"
    if state["depth"] < 0:
        yield f"has depth {state['depth']}"


def _check_step(step: Row, index: _Index) -> Iterator[str]:
    yield from _find_missing("problems", step["problem_id"], index.problems)
    yield from _find_missing("models", step["model_id"], index.models)
    yield from _find_missing("runs", step["run_id"], index.runs)
    yield from _find_missing("states", step["state_id"], index.states)
    for column in _COUNTS:
        if step[column] < 0:
            yield f"has {column} {step[column]}"
    if step["cached_prompt_tokens"] > step["prompt_tokens"]:
        yield (
            f"has {step['cached_prompt_tokens']} cached of {step['prompt_tokens']} prompt tokens"
        )
    thought = step["reasoning_tokens"]
    if thought is not None and not 0 <= thought <= step["completion_tokens"]:
        yield f"has {thought} reasoning of {step['completion_tokens']} completion tokens"
    doubtful = step["doubtful_tries"]
    if doubtful is not None and doubtful < 1:
        yield f"has doubtful_tries {doubtful}, which is above 0 or missing"
    if len(step["first_token_texts"]) != len(step["first_token_logprobs"]):
        yield "has first-token texts and log-probabilities of different lengths"
    if step["error"] is not None:
        for column in ("text", "next_state_id"):
            if step[column] is not None:
                yield f"failed ({step['error']!r:.60}) and has {column} {step[column]!r:.60}"
    elif step["text"] is None or step["next_state_id"] is None:
        yield "has no error and no text or next state"
    if index.states is not None and step["state_id"] in index.states:
        yield from _check_step_states(step, index.states[step["state_id"]], index)


def _check_step_states(step: Row, before: Row, index: _Index) -> Iterator[str]:
    if before["problem_id"] != step["problem_id"]:
        yield f"is of problem {step['problem_id']}, its state of {before['problem_id']}"
    if before["is_terminal"]:
        yield f"continues state {before['id']}, which is terminal"
    delimiter = index.delimiters.get(step["run_id"])
    if delimiter is not None:
        settings = ("problem_id", "model_id", "kind", "temperature", "max_tokens")
        expected = compute_step_id(
            prefix=before["text"],
            delimiter=delimiter,
            prompt_version=step["prompt_version"],
            sample_index=step["sample_index"],
            **{column: step[column] for column in settings},
        )
        if step["id"] != expected:
            yield f"its content has the id {expected}"
    if step["error"] is not None or step["text"] is None or step["next_state_id"] is None:
        return
    assert index.states is not None
    after = index.states.get(step["next_state_id"])
    if after is None:
        yield from _find_missing("states", step["next_state_id"], index.states)
        return
    if after["text"] != before["text"] + step["text"]:
        yield (
            f"the text of next state {after['id']} is not that of state {before['id']} followed "
            f"by the step's {step['text']!r:.60}"
        )
    if after["problem_id"] != before["problem_id"]:
        yield f"leads from problem {before['problem_id']} to {after['problem_id']}"
    if step["kind"] == "tail" and not after["is_terminal"]:
        yield f"is a tail and next state {after['id']} is not terminal"


def _find_attempt_problems(steps: Sequence[Row]) -> Iterator[str]:
    """Steps that succeeded twice, or whose attempts are not 0, 1, ... with the success last."""
    attempts: dict[str, list[tuple[int, bool]]] = {}
    for step in steps:
        attempts.setdefault(step["id"], []).append((step["attempt"], step["error"] is None))
    for step_id, rows in attempts.items():
        rows.sort()
        successes = [attempt for attempt, succeeded in rows if succeeded]
        last, line = rows[-1][0], ""
        if len(successes) > 1:
            line = f"succeeded at attempts {successes}, once is right"
        elif {attempt for attempt, _ in rows} != set(range(last + 1)):
            line = f"has attempts {[attempt for attempt, _ in rows]}, so a row is missing"
        elif successes and successes[0] != last:
            line = f"was tried again after it succeeded at attempt {successes[0]}"
        if line:
            yield f"steps {step_id}: {line}: {_RECORD_AGAIN}"


def _check_judgement(judgement: Row, index: _Index, successes: Set[str] | None) -> Iterator[str]:
    yield from _find_missing("models", judgement["judge_model_id"], index.models)
    if successes is not None and judgement["step_id"] not in successes:
        yield f"scores step {judgement['step_id']!r}, which has no successful row"
    for column in ("prompt_tokens", "shared_prompt_tokens", "completion_tokens"):
        if judgement[column] < 0:
            yield f"has {column} {judgement[column]}"
    if not 0 <= judgement["score"] <= 1:
        yield f"has score {judgement['score']}, outside [0, 1]"


def _check_choice(choice: Row, successes: Set[str] | None) -> Iterator[str]:
    if successes is not None and choice["step_id"] not in successes:
        yield f"chose step {choice['step_id']!r}, which has no successful row"
    if not 0 < choice["probability"] <= 1:
        yield f"has probability {choice['probability']}, outside (0, 1]"


def _check_prompt_score(score: Row, index: _Index) -> Iterator[str]:
    yield from _find_missing("problems", score["problem_id"], index.problems)
    yield from _find_missing("models", score["model_id"], index.models)
    if score["tokens"] < 1 or not -float("inf") < score["logprob"] <= 0:
        yield f"has log-probability {score['logprob']} over {score['tokens']} tokens"


def _check_problem_text(text: Row, index: _Index) -> Iterator[str]:
    yield from _find_missing("problems", text["problem_id"], index.problems)
    if index.problems is None or text["problem_id"] not in index.problems:
        return
    if index.problems[text["problem_id"]]["text_sha256"] != compute_text_sha256(text["text"]):
        yield "is not the text whose SHA-256 its problem has"
