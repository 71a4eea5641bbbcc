"""What is recorded of some problems: which steps there are and where they lead.

It reads the columns that this takes, of the problems that are asked for; of compacted files, which
are ordered by problem, only the row groups that can hold them. So memory depends on the problems
at hand, not on the size of the store. Invariants: nothing on the disk changes; the files are those
that were there when the index was made, those of a table's targets listed after its own, so that
beside a writer at work no step lacks its states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow.compute as pc

from routerlib.errors import StoreError
from routerlib.records import Problem, ProblemRow, State
from routerlib.store.files import check_file, iterate_tables, list_files, read_parquet
from routerlib.store.reading import check_store
from routerlib.store.schema import TABLES, Record, Row, get_key, make_record

_Key = TypeVar("_Key")
_Record = TypeVar("_Record")
_STEP_COLUMNS = ("id", "attempt", "error", "next_state_id")
# Tables whose rows say something of a problem or a step, and the column that names which one.
_OF_PROBLEMS = {"problem_texts": "problem_id", "prompt_scores": "problem_id"}
_OF_STEPS = {"choices": "step_id", "judgements": "step_id"}
REMARKS = (*_OF_PROBLEMS, *_OF_STEPS)


class TraceIndex:
    """The states and steps of the problems that were opened, and what is said of them:
    ``remarks`` maps a table to its records by their keys.

    Invariant: of an open problem everything is known, of any other one nothing. A store that does
    not exist yet has nothing. Raises StoreError when rows conflict, and the errors of
    ``load_table`` when the store is unsound.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.is_dir():
            check_store(root, TABLES)
        self._paths = {name: list_files(root, name) for name in reversed(TABLES)}
        for name, paths in self._paths.items():
            for path in paths:
                check_file(path, name)
        self._opened: set[str] = set()
        self.problems: dict[str, ProblemRow] = {}
        self.states: dict[str, State] = {}
        self.remarks: dict[str, dict[tuple[str, ...], Record]] = {name: {} for name in REMARKS}
        self.next_state_ids: dict[str, str] = {}
        self.failures: Counter[str] = Counter()

    def open_problems(self, problem_ids: Iterable[str]) -> None:
        """Read what is recorded of these problems; nothing happens for those that are open."""
        new = set(problem_ids) - self._opened
        if not new:
            return
        for row in self._iterate("problems", None, "id", new):
            problem: ProblemRow = make_record("problems", row)
            _add_once("problems", self.problems, problem.id, problem)
        for row in self._iterate("states", None, "problem_id", new):
            self._add_state(make_record("states", row))
        step_ids = self._add_steps(list(self._iterate("steps", _STEP_COLUMNS, "problem_id", new)))
        for wanted, tables in ((new, _OF_PROBLEMS), (step_ids, _OF_STEPS)):
            for name, column in tables.items():
                for row in self._iterate(name, None, column, wanted):
                    record: Record = make_record(name, row)
                    _add_once(name, self.remarks[name], get_key(name, record), record)
        self._opened |= new

    def list_recorded(self, problems: Iterable[Problem]) -> list[Problem]:
        """Open these problems and return those that are recorded. Raises StoreError when one is
        recorded with another text."""
        asked = list(problems)
        self.open_problems(problem.id for problem in asked)
        recorded = [problem for problem in asked if problem.id in self.problems]
        for problem in recorded:
            if self.problems[problem.id].text_sha256 != problem.text_sha256:
                raise StoreError(
                    f"problem {problem.id} was recorded with another text: give the benchmark "
                    f"files that it was recorded from; the text now is {problem.text!r:.80}"
                )
        return recorded

    def open_all(self) -> None:
        """Read what is recorded of all problems: memory for the whole store."""
        for path in self._paths["problems"]:
            self.open_problems(read_parquet(path, "problems", ["id"])["id"].to_pylist())

    def open_step(self, step_id: str) -> None:
        """Open the problem of a step, if the step is recorded."""
        if step_id not in self.next_state_ids:
            rows = self._iterate("steps", ("problem_id",), "id", {step_id})
            self.open_problems([row["problem_id"] for row in rows])

    def _iterate(
        self, name: str, columns: Sequence[str] | None, key: str, wanted: Set[str]
    ) -> Iterator[Row]:
        for path in self._paths[name]:
            for table in iterate_tables(path, name, columns, key, wanted):
                yield from table.to_pylist()

    def _add_state(self, state: State) -> None:
        """Keep a state at its smallest depth."""
        known = self.states.setdefault(state.id, state)
        least = min(known.depth, state.depth)
        self.states[state.id] = replace(known, depth=least)
        _add_once("states", self.states, state.id, replace(state, depth=least))

    def _add_steps(self, rows: Sequence[Row]) -> set[str]:
        """Keep the outcomes of calls and return the steps' ids; equal rows count once, and a
        success wins over a failure of the same attempt."""
        successes: dict[str, int] = {}
        for row in rows:
            if row["error"] is not None or row["next_state_id"] is None:
                continue
            if successes.setdefault(row["id"], row["attempt"]) != row["attempt"]:
                raise StoreError(
                    f"step {row['id']} succeeded more than once: delete the shard whose row is "
                    "not wanted"
                )
            _add_once("steps", self.next_state_ids, row["id"], row["next_state_id"])
        failures = {(row["id"], row["attempt"]) for row in rows} - set(successes.items())
        self.failures.update(step_id for step_id, _ in failures)
        return {row["id"] for row in rows}

    def get_state(self, state_id: str) -> State | None:
        """Return a state of an open problem, None when it is not recorded."""
        return self.states.get(state_id)

    def get_next_state(self, step_id: str) -> State | None:
        """Return the state that a step of an open problem reached, None when none succeeded."""
        next_state_id = self.next_state_ids.get(step_id)
        return None if next_state_id is None else self.states.get(next_state_id)

    def has_judgement(self, step_id: str, judge_model_id: str, question: str) -> bool:
        """Say whether a step of an open problem was judged."""
        return (step_id, judge_model_id, question) in self.remarks["judgements"]

    def sum_tokens(self) -> tuple[int, int, int]:
        """Return the number of successful steps of all problems, and their completion and prompt
        tokens. It reads three columns, one file at a time."""
        count = completion_tokens = prompt_tokens = 0
        for path in self._paths["steps"]:
            columns = ["error", "completion_tokens", "prompt_tokens"]
            table = read_parquet(path, "steps", columns)
            table = table.filter(pc.is_null(table["error"]))
            count += table.num_rows
            completion_tokens += pc.sum(table["completion_tokens"]).as_py() or 0
            prompt_tokens += pc.sum(table["prompt_tokens"]).as_py() or 0
        return count, completion_tokens, prompt_tokens

    def summarise_tokens(self) -> tuple[float, float] | None:
        """Return the mean completion and prompt tokens of a successful step, None without any."""
        count, completion_tokens, prompt_tokens = self.sum_tokens()
        return (completion_tokens / count, prompt_tokens / count) if count else None


def _add_once(name: str, records: dict[_Key, _Record], key: _Key, record: _Record) -> None:
    """Add a record unless it is there. Raises StoreError when another one is."""
    if records.setdefault(key, record) != record:
        raise StoreError(
            f"two rows of {name} have the key {key} and differ: delete the shard whose row is wrong"
        )
