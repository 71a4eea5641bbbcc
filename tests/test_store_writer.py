"""Writing: what is refused, when it is flushed, and what a killed writer leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny import (
    LARGE,
    SMALL,
    add_records,
    make_card,
    make_problem_row,
    make_problems,
    make_run,
    make_state,
    make_step,
    make_tiny_records,
)

from routerlib.errors import StoreError
from routerlib.records import Choice, Judgement, ProblemText, PromptScore, State, Step
from routerlib.store import TraceWriter, compact, copy_problems, load_table, verify
from routerlib.store.files import list_files
from routerlib.store.schema import TABLES

PROBLEM = make_problems()[0]
ROOT_STATE = make_state(PROBLEM, "")
FIRST = make_state(PROBLEM, "2 + 3 = 5\n")
STEP = make_step(ROOT_STATE, FIRST, SMALL)
FAILED = replace(make_step(ROOT_STATE, None, SMALL), error="TransientModelError: timeout")


def start(root: Path, **more: float) -> TraceWriter:
    """A writer that has all that a first step points at."""
    writer = TraceWriter(root, **more)  # type: ignore[arg-type]
    add_records(writer, [make_card(SMALL), make_run(), make_problem_row(PROBLEM)])
    add_records(writer, [ROOT_STATE, FIRST])
    return writer


def count_rows(root: Path, name: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in list_files(root, name))


def test_lookups_answer_what_is_there(tmp_path: Path) -> None:
    for reopened in (False, True):
        with start(tmp_path) as writer:
            if not reopened:
                assert writer.get_next_state(STEP.id) is None
                assert writer.summarise_tokens() is None
                writer.add_step(FAILED)
                assert writer.count_attempts(STEP.id) == 1
                assert STEP.id not in writer.recorded_steps()
                writer.add_step(replace(STEP, attempt=1))
            assert writer.recorded_steps() == {STEP.id}
            assert writer.count_attempts(STEP.id) == 1
            assert writer.get_next_state(STEP.id) == FIRST
            assert writer.get_state(ROOT_STATE.id) == ROOT_STATE
            assert writer.get_state("unknown") is None
            assert writer.summarise_tokens() == (5.0, 30.0)
    assert [row["error"] for row in load_table(tmp_path, "steps").to_pylist()] == [
        "TransientModelError: timeout",
        None,
    ]
    assert verify(tmp_path) == []


def count_filled(root: Path) -> dict[str, int]:
    """The number of rows of each table that has any."""
    counts = {name: count_rows(root, name) for name in TABLES}
    return {name: count for name, count in counts.items() if count}


def test_equal_rows_are_added_once(tmp_path: Path) -> None:
    for _ in range(2):
        with start(tmp_path) as writer:
            add_records(writer, [make_card(SMALL), make_problem_row(PROBLEM), FIRST, make_run()])
            writer.add_state(replace(FIRST, depth=7))
    assert count_filled(tmp_path) == {
        "problems": 1,
        "models": 1,
        "runs": 1,
        "states": 2,
    }
    assert load_table(tmp_path, "states")["depth"].to_pylist() == [0, 1]


@pytest.mark.parametrize(
    "record",
    [
        replace(make_card(SMALL), licence="other"),
        replace(make_problem_row(PROBLEM), features={"n_chars": 1.0}),
        replace(FIRST, text="changed"),
    ],
)
def test_other_content_under_a_known_id_is_refused(tmp_path: Path, record: State) -> None:
    with start(tmp_path) as writer, pytest.raises(StoreError, match=r"with other content: there"):
        add_records(writer, [record])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (replace(STEP, problem_id="no"), "'no', not a row of problems"),
        (replace(STEP, model_id="no"), "'no', not a row of models"),
        (replace(STEP, run_id="no"), "'no', not a row of runs"),
        (replace(STEP, state_id="no"), "'no', not a row of states"),
        (replace(STEP, next_state_id="no"), "'no', not a row of states"),
        (replace(STEP, attempt=1), "has attempt 1, but 0 calls failed"),
        (replace(STEP, text="2 + 3 = 6\n"), "is not the text of state"),
        (replace(STEP, text=None), "needs text and next_state_id"),
        (replace(STEP, error="boom"), "text and next_state_id must be None"),
        (replace(STEP, prompt_tokens="many"), "does not fit table steps"),
        (replace(STEP, requested_model=None), "requested_model must have a value"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(tmp_path: Path, step: Step, message: str) -> None:
    with start(tmp_path) as writer:
        with pytest.raises(StoreError, match=message):
            writer.add_step(step)
        writer.add_step(STEP)  # a refused row leaves nothing behind
    assert verify(tmp_path) == []


def test_a_second_success_is_refused(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        writer.add_step(STEP)
        for again in (STEP, replace(STEP, attempt=1), replace(FAILED, attempt=1)):
            with pytest.raises(StoreError, match="succeeded before"):
                writer.add_step(again)


def test_links_of_states_and_judgements_are_checked(tmp_path: Path) -> None:
    judgement = Judgement(STEP.id, SMALL, "useful", 0.5, 10, 0, 1)
    with start(tmp_path) as writer:
        with pytest.raises(StoreError, match="not a row of problems"):
            writer.add_state(replace(FIRST, id="x", problem_id="no"))
        with pytest.raises(StoreError, match="no successful step"):
            writer.add_judgement(judgement)
        writer.add_step(STEP)
        with pytest.raises(StoreError, match="not a row of models"):
            writer.add_judgement(replace(judgement, judge_model_id=LARGE))
        writer.add_judgement(judgement)
        writer.add_judgement(judgement)
        with pytest.raises(StoreError, match="other content"):
            writer.add_judgement(replace(judgement, score=0.75))
    assert load_table(tmp_path, "judgements")["score"].to_pylist() == [0.5]
    assert verify(tmp_path) == []


def test_remarks_are_checked_kept_and_copied(tmp_path: Path) -> None:
    """Choices, prompt scores and problem texts: each needs its target and is added once."""
    choice, score = Choice(STEP.id, "random", 0.5), PromptScore(PROBLEM.id, SMALL, 12, -30.5)
    text = ProblemText(PROBLEM.id, PROBLEM.text, PROBLEM.answer)
    with start(tmp_path / "a") as writer:
        with pytest.raises(StoreError, match="no successful step"):
            writer.add_choice(choice)
        with pytest.raises(StoreError, match="not a row of models"):
            writer.add_prompt_score(replace(score, model_id=LARGE))
        with pytest.raises(StoreError, match="is not the text that was recorded: 'Another"):
            writer.add_problem_text(replace(text, text="Another one."))
        writer.add_step(STEP)
        for _ in range(2):
            writer.add_choice(choice)
            writer.add_prompt_score(score)
            writer.add_problem_text(text)
    for changed, add in (
        (replace(choice, probability=0.25), "add_choice"),
        (replace(score, logprob=-1.0), "add_prompt_score"),
        (replace(text, answer="no"), "add_problem_text"),
    ):
        with (
            TraceWriter(tmp_path / "a") as writer,
            pytest.raises(StoreError, match="other content"),
        ):
            getattr(writer, add)(changed)
    copy_problems(tmp_path / "a", tmp_path / "b", [PROBLEM.id])
    for root in (tmp_path / "a", tmp_path / "b"):
        assert load_table(root, "choices").to_pylist() == [asdict(choice)]
        assert load_table(root, "prompt_scores").to_pylist() == [asdict(score)]
        assert load_table(root, "problem_texts").to_pylist() == [asdict(text)]
        assert verify(root) == []


def test_flushes_by_rows(tmp_path: Path) -> None:
    writer = start(tmp_path, flush_seconds=1e9)
    written = []
    for number in range(1025):
        writer.add_step(replace(STEP, id=f"step {number}"))
        if number + 1 in (511, 512, 1024, 1025):
            written.append(count_rows(tmp_path, "steps"))
    assert written == [0, 512, 1024, 1024]
    writer.close()
    assert count_rows(tmp_path, "steps") == 1025


def test_flushes_by_time(tmp_path: Path) -> None:
    with start(tmp_path, flush_seconds=0.0) as writer:
        writer.add_step(STEP)
        assert count_rows(tmp_path, "steps") == 1


def test_rows_wait_when_writing_fails(tmp_path: Path) -> None:
    writer = start(tmp_path)
    writer.add_step(STEP)
    (tmp_path / "steps").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot be written .*steps.*start the same run again"):
        writer.flush()
    (tmp_path / "steps").unlink()
    writer.close()
    assert count_filled(tmp_path) == {
        "problems": 1,
        "models": 1,
        "runs": 1,
        "states": 2,
        "steps": 1,
    }
    assert verify(tmp_path) == []


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with TraceWriter(tmp_path):
        for forbidden in (TraceWriter, compact):
            with pytest.raises(StoreError, match=f"written by process {os.getpid()}: wait"):
                forbidden(tmp_path)
    TraceWriter(tmp_path).close()


def test_a_closed_writer_takes_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        pass
    writer.close()
    for attempt in (lambda: writer.add_step(STEP), writer.flush):
        with pytest.raises(StoreError, match="is closed: open a new one"):
            attempt()


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="flush_rows must be at least 1"):
        TraceWriter(tmp_path, flush_rows=0)


def test_nothing_recorded_leaves_no_manifest(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "traces"):
        pass
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["writer.lock"]


def test_an_exception_in_the_body_keeps_what_was_added(tmp_path: Path) -> None:
    def stop_while_recording() -> None:
        with start(tmp_path) as writer:
            writer.add_step(STEP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_while_recording()
    assert count_rows(tmp_path, "steps") == 1
    assert verify(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tiny import add_records, make_tiny_records
from routerlib.store import TraceWriter

writer = TraceWriter(Path(sys.argv[1]), flush_rows=6, flush_seconds=1e9)
add_records(writer, make_tiny_records()[:-2])
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_writer(root: Path, script: str = KILLED) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script, root], env=environment, check=False)
    assert done.returncode == -9


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    """19 of 20 steps are added, 18 are in shards and one in the journal; the lock dies with the
    process."""
    kill_a_writer(tmp_path)
    assert load_table(tmp_path, "steps").num_rows == 18  # readers do not look into the journal
    lines = verify(tmp_path)
    assert "holds rows that are in no shard yet" in lines[0]
    assert all("is not in the manifest" in line or "is missing" in line for line in lines[1:])
    assert [path.name for path in tmp_path.glob("**/.*")] == [".writer.journal"]

    with TraceWriter(tmp_path) as writer:
        assert len(writer.recorded_steps()) == 19
        for record in make_tiny_records():
            if not (isinstance(record, Step) and writer.get_next_state(record.id)):
                add_records(writer, [record])
    assert load_table(tmp_path, "steps").num_rows == 20
    assert load_table(tmp_path, "states").num_rows == 20
    assert verify(tmp_path) == []


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        writer.add_step(STEP)
    half = tmp_path / "steps" / ".part-1.parquet.99.tmp"
    half.write_bytes(b"PAR1 half")
    assert verify(tmp_path) == []
    assert load_table(tmp_path, "steps").num_rows == 1
    TraceWriter(tmp_path).close()
    assert not half.exists()


def test_checks_are_exact_for_problems_that_were_not_opened(tmp_path: Path) -> None:
    """Whatever is added first, the rows of its problem are read before it is judged."""
    with start(tmp_path) as writer:
        writer.add_step(FAILED)
        writer.add_step(replace(STEP, attempt=1))
    with TraceWriter(tmp_path) as writer, pytest.raises(StoreError, match="succeeded before"):
        writer.add_step(STEP)
    with TraceWriter(tmp_path) as writer, pytest.raises(StoreError, match="with other content"):
        writer.add_problem(replace(make_problem_row(PROBLEM), level="9"))
    with TraceWriter(tmp_path) as writer, pytest.raises(StoreError, match="with other content"):
        writer.add_state(replace(FIRST, text="changed"))
    with TraceWriter(tmp_path) as writer:
        writer.add_judgement(Judgement(STEP.id, SMALL, "useful", 0.5, 10, 0, 1))
    with TraceWriter(tmp_path) as writer, pytest.raises(StoreError, match="with other content"):
        writer.add_judgement(Judgement(STEP.id, SMALL, "useful", 0.25, 10, 0, 1))
    with TraceWriter(tmp_path) as writer:
        assert writer.get_next_state(STEP.id) is None  # of a problem that is not open
        writer.open_problems([PROBLEM.id])
        assert writer.get_next_state(STEP.id) == FIRST
        assert writer.count_attempts(STEP.id) == 1
    assert verify(tmp_path) == []


def test_opening_reads_the_problems_at_hand(tiny_store: Path) -> None:
    with TraceWriter(tiny_store) as writer:
        assert writer.summarise_tokens() is not None  # of the whole store, problem by problem
        writer.open_problems(["tiny/test/1"])
        steps = [record for record in make_tiny_records() if isinstance(record, Step)]
        for step in steps:
            is_open = step.problem_id == "tiny/test/1"
            assert (writer.get_next_state(step.id) is not None) == is_open
        assert writer.recorded_steps() == {step.id for step in steps}


def test_tokens_count_what_was_there_and_what_was_added(tmp_path: Path) -> None:
    for number in range(3):
        with start(tmp_path, flush_rows=1) as writer:
            writer.add_step(replace(STEP, id=f"step {number}", completion_tokens=number))
            assert writer.summarise_tokens() == (number / 2, 30.0)


def test_the_manifest_names_the_settings_of_all_writers(tmp_path: Path) -> None:
    for number in range(3):
        with start(tmp_path) as writer:
            writer.add_step(replace(STEP, id=f"step {number}", max_tokens=100 + number // 2))
    path = tmp_path / "manifest.json"
    before = json.loads(path.read_text())
    assert [setting["max_tokens"] for setting in before["sampling"]] == [100, 101]
    compact(tmp_path)
    after = json.loads(path.read_text())
    for name in ("models", "prompt_versions", "sampling"):
        assert after[name] == before[name]
