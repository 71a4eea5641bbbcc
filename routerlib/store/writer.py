"""Append rows to a store while models answer, and know what is already there.

Rows wait in memory and in the journal and are written as shards, at most ``flush_rows`` steps or
``flush_seconds`` late. Invariants: one writer at a time; a row that was added outlives its process,
whatever kills it; a row is refused unless the rows it points at were added before; tables are
written targets first, so that a reader finds no step without its states; a step succeeds at most
once, and a failed call stays a row of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from routerlib.errors import StoreError
from routerlib.records import (
    Choice,
    Judgement,
    ModelCard,
    Problem,
    ProblemRow,
    ProblemText,
    PromptScore,
    Run,
    State,
    Step,
    compute_text_sha256,
)
from routerlib.store.compaction import recover
from routerlib.store.files import StoreLock, named_write_errors, sync, write_parquet
from routerlib.store.index import REMARKS, TraceIndex
from routerlib.store.journal import Journal, recover_rows
from routerlib.store.manifest import (
    Manifest,
    SamplingSetting,
    describe_recording,
    list_entries,
    load_manifest,
    make_manifest,
    save_manifest,
)
from routerlib.store.reading import SETTING_COLUMNS, list_settings, load_table
from routerlib.store.schema import (
    TABLES,
    Record,
    Row,
    get_key,
    make_record,
    make_row,
    make_table,
)


class TraceWriter:
    """Writes records into the store at ``root``, which is made when it does not exist.

    A context manager; it locks the store from construction to ``close``. It knows the rows of the
    problems that were opened, by ``open_problems`` or by adding to them. Raises StoreError when
    another writer is at work or the folder cannot be written, and the errors of ``load_table``
    when the store is unsound.
    """

    def __init__(self, root: Path, *, flush_rows: int = 512, flush_seconds: float = 20.0) -> None:
        if flush_rows < 1 or flush_seconds < 0:
            raise StoreError(
                f"flush_rows must be at least 1 and flush_seconds at least 0, got {flush_rows} "
                f"and {flush_seconds}"
            )
        self.root = Path(root)
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._buffers: dict[str, list[Row]] = {name: [] for name in TABLES}
        self._added_steps = self._added_completion_tokens = self._added_prompt_tokens = 0
        self._lock = StoreLock(self.root)
        self._journal = Journal(self.root)
        self._closed = False
        try:
            with named_write_errors(self.root):
                recover(self.root)
            recover_rows(self.root)
            self._index = TraceIndex(self.root)
            self._records: dict[str, dict[Any, Any]] = {
                "problems": self._index.problems,
                "models": _load_records(self.root, "models"),
                "runs": _load_records(self.root, "runs"),
                "states": self._index.states,
                **self._index.remarks,
            }
        except BaseException:
            self._lock.release()
            raise
        self._flushed_at = time.monotonic()

    def open_problems(self, problem_ids: Iterable[str]) -> None:
        """Read what is recorded of these problems, all in one pass; nothing happens for those that
        are open. The methods below answer for open problems."""
        self._index.open_problems(problem_ids)

    def list_recorded(self, problems: Iterable[Problem]) -> list[Problem]:
        """Open these problems and return those that are recorded. Raises StoreError when one is
        recorded with another text."""
        return self._index.list_recorded(problems)

    def recorded_steps(self) -> Set[str]:
        """Return the ids of all steps that have a successful row, a live view; it opens all
        problems of the store."""
        self._index.open_all()
        return self._index.next_state_ids.keys()

    def count_attempts(self, step_id: str) -> int:
        """Return how many calls for this step failed so far: the ``attempt`` of its next row."""
        return self._index.failures[step_id]

    def get_state(self, state_id: str) -> State | None:
        """Return a state by its id, None when it is not recorded."""
        return self._index.get_state(state_id)

    def get_next_state(self, step_id: str) -> State | None:
        """Return the state that a recorded step reached, None when no call succeeded yet."""
        return self._index.get_next_state(step_id)

    def summarise_tokens(self) -> tuple[float, float] | None:
        """Return the mean completion and prompt tokens of a successful step of the store, None
        without any."""
        count, completion_tokens, prompt_tokens = self._index.sum_tokens()
        count += self._added_steps
        completion_tokens += self._added_completion_tokens
        prompt_tokens += self._added_prompt_tokens
        return (completion_tokens / count, prompt_tokens / count) if count else None

    def add_problem(self, problem: ProblemRow) -> None:
        """Add a problem; nothing happens when it is there. Raises StoreError if it differs."""
        self.open_problems([problem.id])
        self._add_once("problems", problem)

    def add_model(self, card: ModelCard) -> None:
        """Add a model; nothing happens when it is there. Raises StoreError if it differs."""
        self._add_once("models", card)

    def add_state(self, state: State) -> None:
        """Add a state; nothing happens when it is there, be it at another depth.

        Raises StoreError if it differs otherwise, or its problem was not added.
        """
        self.open_problems([state.problem_id])
        self._require("problems", state.problem_id, f"state {state.id}")
        self._add_once("states", state)

    def add_run(self, run: Run) -> None:
        """Add a run, or the same run again with later values (``ended_at``, ``spent_usd``)."""
        if self._records["runs"].get(run.id) != run:
            self._add("runs", run)

    def add_judgement(self, judgement: Judgement) -> None:
        """Add a score; nothing happens when it is there. Raises StoreError if it differs, or the
        step did not succeed or the judge was not added."""
        owner = f"judgement of step {judgement.step_id}"
        self._require("models", judgement.judge_model_id, owner)
        self._require_success(judgement.step_id, owner)
        self._add_once("judgements", judgement)

    def has_judgement(self, step_id: str, judge_model_id: str, question: str) -> bool:
        """Say whether a step of an open problem was judged."""
        return self._index.has_judgement(step_id, judge_model_id, question)

    def add_choice(self, choice: Choice) -> None:
        """Add a behaviour policy's decision; nothing happens when it is there. Raises StoreError
        if it differs, or the step did not succeed."""
        self._require_success(choice.step_id, f"choice of step {choice.step_id}")
        self._add_once("choices", choice)

    def add_problem_text(self, text: ProblemText) -> None:
        """Add the text of a problem that may be stored; nothing happens when it is there. Raises
        StoreError if the problem was not added, or its text has another SHA-256."""
        owner = f"text of problem {text.problem_id}"
        self.open_problems([text.problem_id])
        self._require("problems", text.problem_id, owner)
        known: ProblemRow = self._records["problems"][text.problem_id]
        if known.text_sha256 != compute_text_sha256(text.text):
            raise StoreError(f"{owner} is not the text that was recorded: {text.text!r:.80}")
        self._add_once("problem_texts", text)

    def add_prompt_score(self, score: PromptScore) -> None:
        """Add how well a model predicts a problem's text; nothing happens when it is there. Raises
        StoreError if it differs, or the problem or model was not added."""
        owner = f"prompt score of problem {score.problem_id}"
        self.open_problems([score.problem_id])
        self._require("problems", score.problem_id, owner)
        self._require("models", score.model_id, owner)
        self._add_once("prompt_scores", score)

    def has_prompt_score(self, problem_id: str, model_id: str) -> bool:
        """Say whether an open problem's text was scored."""
        return (problem_id, model_id) in self._records["prompt_scores"]

    def _require_success(self, step_id: str, owner: str) -> None:
        self._index.open_step(step_id)
        if step_id not in self._index.next_state_ids:
            raise StoreError(f"{owner}: there is no successful step of that id; add it first")

    def add_step(self, step: Step) -> None:
        """Add the outcome of a call, then flush if it is time.

        Raises StoreError when the step succeeded before, ``attempt`` is not the number of failed
        calls so far, a row it points at was not added, or its text and states do not fit.
        """
        self._check_step(step)
        self._buffer("steps", step)
        self._note_step(step)
        if (
            len(self._buffers["steps"]) >= self._flush_rows
            or time.monotonic() - self._flushed_at >= self._flush_seconds
        ):
            self.flush()

    def _note_step(self, step: Step) -> None:
        if step.error is not None or step.next_state_id is None:
            self._index.failures[step.id] += 1
            return
        self._index.next_state_ids[step.id] = step.next_state_id
        self._added_steps += 1
        self._added_completion_tokens += step.completion_tokens
        self._added_prompt_tokens += step.prompt_tokens

    def _check_step(self, step: Step) -> None:
        owner = f"step {step.id}"
        self._check_open()
        self.open_problems([step.problem_id])
        if step.id in self._index.next_state_ids:
            raise StoreError(f"{owner} succeeded before: ask get_next_state before calling a model")
        if step.attempt != self.count_attempts(step.id):
            raise StoreError(
                f"{owner} has attempt {step.attempt}, but {self.count_attempts(step.id)} calls "
                "failed so far: use count_attempts"
            )
        self._require("problems", step.problem_id, owner)
        self._require("models", step.model_id, owner)
        self._require("runs", step.run_id, owner)
        self._require("states", step.state_id, owner)
        if step.error is not None:
            if step.text is not None or step.next_state_id is not None:
                raise StoreError(f"{owner} has an error, so text and next_state_id must be None")
            return
        if step.text is None or step.next_state_id is None:
            raise StoreError(f"{owner} has no error, so it needs text and next_state_id")
        self._require("states", step.next_state_id, owner)
        before, after = self.get_state(step.state_id), self.get_state(step.next_state_id)
        assert before is not None
        assert after is not None
        if after.text != before.text + step.text or before.problem_id != after.problem_id:
            raise StoreError(
                f"{owner}: the text of next state {after.id} is not the text of state {before.id} "
                f"followed by the step's text {step.text!r:.80}"
            )

    def _require(self, name: str, key: str, owner: str) -> None:
        if key not in self._records[name]:
            raise StoreError(f"{owner} points at {key!r}, not a row of {name} yet: add it first")

    def _add_once(self, name: str, record: Record) -> None:
        key = _get_key(name, record)
        known = self._records[name].get(key)
        if known is None:
            self._add(name, record)
        elif _get_content(known) != _get_content(record):
            raise StoreError(
                f"{name} row {key} is there with other content: there {known!r:.300}, new "
                f"{record!r:.300}; give the new one another id, or record into another folder"
            )

    def _add(self, name: str, record: Record) -> None:
        self._check_open()
        self._buffer(name, record)
        self._records[name][_get_key(name, record)] = record

    def _buffer(self, name: str, record: Record) -> None:
        """Keep a row for the next flush; one that could not be written is refused now."""
        row = make_row(record)
        make_table(name, [row])
        self._journal.append(name, row)
        self._buffers[name].append(row)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the writer of {self.root} is closed: open a new one")

    def flush(self) -> None:
        """Write the rows in memory as new shards, targets first, and empty the journal.

        Raises StoreError when the system does not let them be written: all rows stay in memory and
        in the journal, for another try or another writer.
        """
        self._check_open()
        with named_write_errors(self.root):
            for name, rows in self._buffers.items():
                if rows:
                    shard = self.root / name / self._journal.shard_name
                    write_parquet(shard, make_table(name, rows))
            self._journal.empty()
            for rows in self._buffers.values():
                rows.clear()
            sync(self.root)
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flush, write the manifest, give the lock back; a second call does nothing."""
        if self._closed:
            return
        try:
            self.flush()
            previous = load_manifest(self.root)
            entries = list_entries(self.root, previous)
            if any(entries.values()):
                settings = _list_settings(self.root, entries, previous)
                description = describe_recording(self._records["models"].values(), settings)
                with named_write_errors(self.root):
                    save_manifest(self.root, make_manifest(entries, description, previous))
        finally:
            self._closed = True
            self._journal.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _load_records(root: Path, name: str) -> dict[str, Any]:
    records = (make_record(name, row) for row in load_table(root, name).to_pylist())
    return {record.id: record for record in records}


def _list_settings(
    root: Path, entries: Mapping[str, Iterable[str]], previous: Manifest | None
) -> set[SamplingSetting]:
    """The settings that the previous manifest names and those of the files that it does not."""
    settings: set[SamplingSetting] = set()
    listed: Iterable[str] = ()
    if previous is not None:
        listed = previous.tables.get("steps", {})
        for setting in previous.description.get("sampling", []):
            settings.add(tuple(setting[column] for column in SETTING_COLUMNS))
    new = sorted(set(entries["steps"]) - set(listed))
    settings |= list_settings(root / "steps" / file for file in new)
    return settings


def _get_key(name: str, record: Record) -> Any:
    """The key under which ``_records`` holds a record: its id, where that alone is its key."""
    key = get_key(name, record)
    return key if name in REMARKS else key[0]


def _get_content(record: Record) -> Row:
    """What must agree when a record is added twice: all but the depth of a state, which is that
    of its first path."""
    row = make_row(record)
    if isinstance(record, State):
        del row["depth"]
    return row
